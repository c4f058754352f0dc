//! What ends because its time is over.

use super::super::link::{Abandoned, LinkError, Payload, SlotId};
use super::{QueuePair, State, Step};
use nvferry_io::stream::Stream;
use std::time::{Duration, Instant};

/// Between two looks whether a target with commands under way is still there.
pub(super) const PEER_CHECK: Duration = Duration::from_secs(5);

impl QueuePair {
    /// When [`Self::tick`] is to be called next; nothing while nothing waits.
    #[must_use]
    pub fn next_timer(&self) -> Option<Instant> {
        let establishing = match self.state {
            State::Establishing { until, .. } => Some(until),
            State::Down | State::Ready => None,
        };
        let peer_check = self.peer_check.filter(|_| self.in_flight() > 0);
        [establishing, self.intake.next_check(), peer_check].into_iter().flatten().min()
    }

    /// Ends what has passed its deadline and queues what is due. Drive the queue pair afterwards.
    ///
    /// # Errors
    /// Why the connection has to end; the caller calls [`Self::lost`].
    pub fn tick(&mut self, stream: Option<&mut dyn Stream>, now: Instant) -> Result<(), LinkError> {
        if self.peer_check.is_some_and(|at| at <= now) {
            self.peer_check = Some(now + PEER_CHECK);
            if let Some(stream) = stream.filter(|_| self.in_flight() > 0) {
                stream.check_peer(now)?;
            }
        }
        let (state, last_error) = (self.state, &self.last_error);
        if self.intake.expire(now, || why_late(state, last_error.as_ref())) {
            self.expire_under_way(now)?;
        }
        match self.state {
            State::Establishing { step, until } if until <= now => Err(LinkError::GivenUp(
                match step {
                    Step::Stream => "nobody answered there in time",
                    Step::Initialize => "ICReq was not answered in time",
                    Step::Connect => "Connect was not answered in time",
                }
                .into(),
            )),
            State::Establishing { .. } | State::Down | State::Ready => Ok(()),
        }
    }

    fn expire_under_way(&mut self, now: Instant) -> Result<(), LinkError> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let mut over: Vec<SlotId> = Vec::new();
        let mut next: Option<Instant> = None;
        for (slot, _, payload) in link.commands() {
            if let Payload::Slice { slice, .. } = payload {
                if slice.deadline <= now {
                    over.push(slot);
                } else {
                    next = Some(next.map_or(slice.deadline, |next| next.min(slice.deadline)));
                }
            }
        }
        let mut given_up = Vec::new();
        let mut result = Ok(());
        for slot in over {
            match link.abandon(slot) {
                Abandoned::Payload(Payload::Slice { slice, .. }) => given_up.push(slice),
                Abandoned::Payload(_) | Abandoned::Nothing => {}
                // Its memory can only be had back by ending the connection; that is also what ends the slice.
                Abandoned::Sending => {
                    result = Err(LinkError::GivenUp("a deadline passed while its data was being sent".into()));
                }
            }
        }
        let unused = |payload: &Payload| matches!(payload, Payload::None);
        if result.is_ok() && link.free_slots() == 0 && link.commands().all(|(_, _, payload)| unused(payload)) {
            result = Err(LinkError::GivenUp("none of its commands was answered in time".into()));
        }
        next.into_iter().for_each(|next| self.intake.check_by(next));
        let why = self.why_late();
        given_up.into_iter().for_each(|slice| self.intake.time_out(slice, &why));
        result
    }

    /// What a slice that is too late has been waiting for.
    pub(super) fn why_late(&self) -> String {
        why_late(self.state, self.last_error.as_ref())
    }
}

fn why_late(state: State, last_error: Option<&LinkError>) -> String {
    match (state, last_error) {
        (State::Ready, _) => "the deadline passed before the target was done".to_owned(),
        (_, Some(error)) => format!("the deadline passed without a connection; the last try: {error}"),
        (_, None) => "the deadline passed before there was a connection".to_owned(),
    }
}
