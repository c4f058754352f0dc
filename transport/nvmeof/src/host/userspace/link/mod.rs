//! A link: one NVMe/TCP connection as a state machine, from ICReq to its end.
//!
//! What goes in: commands with their memory, and readiness of the stream. What comes out: ended commands with their
//! memory. It knows PDUs, command slots, R2Ts and digests; it knows no files, deadlines or retries: those are for its
//! owners, the I/O [queue pair](super::queue_pair) and the admin [controller](super::controller). No threads, no
//! sockets, no clock: a test or a simulator drives it over any [`Stream`].
//!
//! ```text
//! Initializing --ICResp--> Open --any error--> Ended
//! ```
//!
//! - [`slots`]: commands under way, by command identifier.
//! - [`payload`]: a command's memory.
//! - [`send`] and [`receive`]: the two directions.

mod error;
mod payload;
mod receive;
mod send;
mod slots;

pub use error::LinkError;
pub(crate) use payload::Payload;
pub(crate) use receive::ReceiveState;
pub(crate) use send::SendState;
pub(crate) use slots::{Flow, MAX_SLOTS, SlotId};

use crate::status::Counters;
use nvferry_io::fast_paths::{FastPaths, PathCounters};
use nvferry_io::stream::Stream;
use nvferry_io::vector::IoVecs;
use nvferry_wire::pdu::{
    DataAlignment, Digests, IC_LEN, IcReq, MAX_HEADER_BYTES, PFV_1_0, PduError, PduRules, Role, TERM_REQ_MAX_LEN,
    TermReq,
};
use nvferry_wire::{Cqe, SglDescriptor, Sqe};
use receive::Receiver;
use send::Sender;
use slots::{Busy, Slots};
use std::sync::Arc;

/// Where the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkState {
    /// ICReq is on its way; ICResp has not come.
    Initializing,
    /// Commands may be sent.
    Open,
    /// Nothing is sent or received any more.
    Ended,
}

/// What is wrong with the data of a command that ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataFault {
    /// A data digest did not match.
    Digest,
    /// Not all of the data came.
    Short,
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Ended<T> {
    /// Its owner's.
    pub(crate) context: T,
    /// Its memory, which the link touches no more.
    pub(crate) payload: Payload,
    /// How it ended.
    pub(crate) cqe: Cqe,
    /// What is wrong all the same.
    pub(crate) fault: Option<DataFault>,
}

/// What became of a command that its owner gave up.
#[derive(Debug)]
pub(crate) enum Abandoned {
    /// The link touches its memory no more, and forgets what still comes for it. It ends with no payload.
    Payload(Payload),
    /// Its memory is being sent: only the end of the connection can stop that.
    Sending,
    /// It was given up before, or is not under way.
    Nothing,
}

/// One NVMe/TCP connection.
#[derive(Debug)]
pub(crate) struct Link<T> {
    state: LinkState,
    rules: PduRules,
    asked_digests: Digests,
    max_transfer_bytes: u32,
    slots: Slots<T>,
    sender: Sender,
    receiver: Receiver,
    ended: Vec<Ended<T>>,
    /// Scratch: commands whose last data left after their completion had come.
    released: Vec<SlotId>,
    /// Whether a receive of less than was asked for means that nothing more is there. So it is for TCP.
    short_receive_is_drained: bool,
    /// From how many bytes on a payload is received in place.
    in_place_bytes: u32,
    stats: Counters,
    taken: Arc<PathCounters>,
}

impl<T> Link<T> {
    /// A connection for `commands` at once, of which none moves more than `max_transfer_bytes`. ICReq waits to be sent.
    pub(crate) fn new(commands: usize, digests: Digests, max_transfer_bytes: u32) -> Self {
        let mut sender = Sender::new();
        let icreq = IcReq { pfv: PFV_1_0, hpda: DataAlignment::NONE, digests, maxr2t: 1 };
        let mut bytes = [0; MAX_HEADER_BYTES];
        let len = icreq.encode(&mut bytes);
        debug_assert_eq!(len, IC_LEN);
        sender.push_raw(&bytes[..len]);
        Self {
            state: LinkState::Initializing,
            rules: PduRules::initial(Role::Host),
            asked_digests: digests,
            max_transfer_bytes,
            slots: Slots::new(commands),
            sender,
            receiver: Receiver::new(),
            ended: Vec::new(),
            released: Vec::new(),
            short_receive_is_drained: true,
            in_place_bytes: FastPaths::of_this_process().in_place.from_bytes(payload::IN_PLACE_BYTES),
            taken: Arc::default(),
            stats: Counters::default(),
        }
    }

    /// Whether ICResp has come and commands may be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.state == LinkState::Open
    }

    /// Whether one more command can be taken now.
    pub(crate) fn has_room(&self) -> bool {
        self.is_open() && self.slots.free_count() > 0 && self.sender.has_room()
    }

    /// Slots that are free.
    pub(crate) fn free_slots(&self) -> usize {
        self.slots.free_count()
    }

    /// Commands under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.busy_count()
    }

    /// What went over it: digest errors, sends and receives.
    pub(crate) fn stats(&self) -> Counters {
        self.stats
    }

    /// The digests in use.
    pub(crate) fn digests(&self) -> Digests {
        self.sender.framing.digests
    }

    /// Takes a command, whose identifier and data pointer it fills in. It leaves with the next [`Self::flush`].
    ///
    /// # Errors
    /// The context and payload, when there is no room ([`Self::has_room`]).
    pub(crate) fn submit(
        &mut self,
        mut sqe: Sqe,
        flow: Flow,
        payload: Payload,
        context: T,
    ) -> Result<SlotId, (T, Payload)> {
        if !self.has_room() {
            return Err((context, payload));
        }
        let sends = matches!(flow, Flow::InCapsule(_) | Flow::OnDemand(_));
        debug_assert!(!sends || flow.bytes() == payload.send_len(), "{flow:?} does not fit {payload:?}");
        let slot = self.slots.take(context, payload, flow)?;
        sqe.set_cid(self.slots.cid(slot));
        match flow {
            Flow::None => {}
            Flow::ToHost(length) | Flow::OnDemand(length) => sqe.set_sgl(SglDescriptor::Transport { length }),
            Flow::InCapsule(length) => sqe.set_sgl(SglDescriptor::InCapsule { offset: 0, length }),
        }
        self.sender.push_command(sqe, slot, &mut self.slots);
        Ok(slot)
    }

    /// Sends until nothing waits or the stream takes no more.
    ///
    /// # Errors
    /// Why the connection has to end.
    pub(crate) fn flush(&mut self, stream: &mut dyn Stream, vecs: &mut IoVecs) -> Result<SendState, LinkError> {
        let Self { sender, slots, released, stats, .. } = self;
        let state = sender.flush(stream, vecs, slots, released, stats)?;
        while let Some(slot) = self.released.pop() {
            if let Some(cqe) = self.slots.get_mut(slot).and_then(|busy| busy.cqe.take()) {
                self.end(slot, cqe);
            }
        }
        Ok(state)
    }

    /// Moves the commands that have ended to `into`.
    pub(crate) fn take_ended(&mut self, into: &mut Vec<Ended<T>>) {
        into.append(&mut self.ended);
    }

    /// Commands under way.
    pub(crate) fn commands(&self) -> impl Iterator<Item = (SlotId, &T, &Payload)> {
        self.slots.iter().map(|(id, busy)| (id, &busy.context, &busy.payload))
    }

    /// Gives up a command's memory. The command itself stays under way until the controller ends it.
    pub(crate) fn abandon(&mut self, slot: SlotId) -> Abandoned {
        let Some(busy) = self.slots.get_mut(slot) else { return Abandoned::Nothing };
        if busy.is_sending() || busy.owed > 0 {
            return Abandoned::Sending;
        }
        match std::mem::replace(&mut busy.payload, Payload::None) {
            Payload::None => Abandoned::Nothing,
            payload => Abandoned::Payload(payload),
        }
    }

    /// Ends the connection. What it was about is told to the controller if that can be done at once; the caller then
    /// closes the stream. All commands under way are returned with their memory; those that have ended are to be taken
    /// before ([`Self::take_ended`]).
    pub(crate) fn dismantle(
        &mut self,
        error: &LinkError,
        stream: Option<&mut dyn Stream>,
        vecs: &mut IoVecs,
    ) -> Vec<(T, Payload)> {
        if self.state != LinkState::Ended
            && let Some(stream) = stream
            && let Some(term) = termination(error)
            && self.sender.is_between_pdus()
        {
            let mut bytes = [0; TERM_REQ_MAX_LEN];
            let len = term.encode(Role::Host, &[], &mut bytes);
            let mut list = vecs.gather();
            list.push(&bytes[..len]);
            // Courtesy only: a connection that does not take it is closed all the same.
            let _ = stream.send(&list);
        }
        self.state = LinkState::Ended;
        debug_assert!(self.ended.is_empty(), "what has ended is to be taken first");
        self.slots.drain().map(|Busy { context, payload, .. }| (context, payload)).collect()
    }

    /// Counts there which paths data takes.
    pub(crate) fn count_paths_in(&mut self, taken: Arc<PathCounters>) {
        self.taken = taken;
    }

    /// For streams that give less than they have: a short receive then says nothing.
    pub(crate) fn distrust_short_receives(&mut self) {
        self.short_receive_is_drained = false;
    }

    /// A command is over.
    fn end(&mut self, slot: SlotId, cqe: Cqe) {
        let Some(Busy { context, payload, flow, moved, damaged, .. }) = self.slots.release(slot) else { return };
        let fault = match flow {
            _ if !cqe.status.is_success() => None,
            _ if damaged => Some(DataFault::Digest),
            Flow::ToHost(len) if moved < len => Some(DataFault::Short),
            _ => None,
        };
        self.ended.push(Ended { context, payload, cqe, fault });
    }
}

impl Flow {
    /// Bytes of data that travel.
    pub(crate) fn bytes(self) -> u32 {
        match self {
            Self::None => 0,
            Self::ToHost(len) | Self::InCapsule(len) | Self::OnDemand(len) => len,
        }
    }
}

/// What to tell a controller that broke the protocol.
fn termination(error: &LinkError) -> Option<TermReq> {
    match error {
        // Bytes were missing on this side: not the peer's fault.
        LinkError::Pdu(PduError::HeaderTruncated { .. }) => None,
        LinkError::Pdu(error) | LinkError::NotNvmeTcp(error) => Some(TermReq::for_error(error)),
        LinkError::Protocol { fes, .. } => Some(TermReq { fes: *fes, fei: 0 }),
        LinkError::Closed
        | LinkError::Io(_)
        | LinkError::Terminated(_)
        | LinkError::Refused { .. }
        | LinkError::NoSecret
        | LinkError::Auth(_)
        | LinkError::GivenUp(_) => None,
    }
}
