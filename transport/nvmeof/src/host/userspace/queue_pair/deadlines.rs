//! What ends, or begins again, because of the time.

use super::super::link::{Abandoned, LinkError, Payload, SlotId};
use super::lanes::Job;
use super::{QueuePair, State, Step};
use crate::host::timed_out;
use nvferry_engine::Slice;
use std::time::Instant;

impl QueuePair {
    /// When [`Self::tick`] is to be called next; nothing while nothing waits.
    #[must_use]
    pub fn next_timer(&self) -> Option<Instant> {
        let establishing = match self.state {
            State::Establishing { until, .. } => Some(until),
            State::Down | State::Ready => None,
        };
        match (establishing, self.check_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Something is to be looked at by then.
    pub(super) fn check_by(&mut self, at: Instant) {
        self.check_at = Some(self.check_at.map_or(at, |before| before.min(at)));
    }

    /// Ends what has passed its deadline and tries again what is due. Drive the queue pair afterwards.
    ///
    /// # Errors
    /// Why the connection has to end; the caller calls [`Self::lost`].
    pub fn tick(&mut self, now: Instant) -> Result<(), LinkError> {
        if self.check_at.is_some_and(|at| at <= now) {
            self.check_at = None;
            self.resume_delayed(now);
            self.expire_waiting(now);
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

    fn resume_delayed(&mut self, now: Instant) {
        let mut i = 0;
        while i < self.delayed.len() {
            let delayed = &self.delayed[i];
            let over = matches!(&delayed.job, Job::Slice(slice, _) if slice.deadline <= now);
            if over || delayed.at <= now {
                let delayed = self.delayed.swap_remove(i);
                match delayed.job {
                    Job::Slice(slice, _) if over => self.time_out(slice),
                    job => self.lanes.push_front(delayed.lane, job),
                }
            } else {
                let mut next = delayed.at;
                if let Job::Slice(slice, _) = &delayed.job {
                    next = next.min(slice.deadline);
                }
                self.check_by(next);
                i += 1;
            }
        }
    }

    fn expire_waiting(&mut self, now: Instant) {
        let mut next: Option<Instant> = None;
        let mut over = Vec::new();
        for lane in self.lanes.iter_mut() {
            let mut i = 0;
            while i < lane.waiting.len() {
                let deadline = match &lane.waiting[i] {
                    Job::Slice(slice, _) => slice.deadline,
                    Job::EdgeRead(..) | Job::EdgeWrite(..) => {
                        i += 1;
                        continue;
                    }
                };
                if deadline > now {
                    next = Some(next.map_or(deadline, |next| next.min(deadline)));
                    i += 1;
                } else if let Some(Job::Slice(slice, _)) = lane.waiting.remove(i) {
                    over.push(slice);
                }
            }
        }
        next.into_iter().for_each(|next| self.check_by(next));
        over.into_iter().for_each(|slice| self.time_out(slice));
        // Merged bytes are copies: slices of edges can end at any time. Their blocks stay locked.
        let why = self.why_late();
        let (target, timeouts) = (&self.target, &mut self.counters.timeouts);
        self.edges.give_up(|slice| {
            (slice.deadline <= now).then(|| {
                *timeouts += 1;
                timed_out(slice, target, &why)
            })
        });
        self.edges.next_deadline().into_iter().for_each(|next| self.check_by(next));
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
        let nobody_waits = !given_up.is_empty() && link.free_slots() == 0 && {
            link.commands().all(|(_, _, payload)| matches!(payload, Payload::None))
        };
        if nobody_waits && result.is_ok() {
            result = Err(LinkError::GivenUp("none of its commands was answered in time".into()));
        }
        next.into_iter().for_each(|next| self.check_by(next));
        given_up.into_iter().for_each(|slice| self.time_out(slice));
        result
    }

    /// Ends a slice whose deadline has passed and whose memory nothing touches any more.
    pub(super) fn time_out(&mut self, slice: Slice) {
        self.counters.timeouts += 1;
        let failure = timed_out(&slice, &self.target, self.why_late());
        slice.fail(failure);
    }

    /// What a slice that is too late has been waiting for.
    fn why_late(&self) -> String {
        match (&self.state, &self.last_error) {
            (State::Ready, _) => "the deadline passed before the target was done".to_owned(),
            (_, Some(error)) => format!("the deadline passed without a connection; the last try: {error}"),
            (_, None) => "the deadline passed before there was a connection".to_owned(),
        }
    }
}
