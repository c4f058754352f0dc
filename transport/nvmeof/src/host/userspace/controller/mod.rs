//! The admin queue of one target as a state machine: from Connect to the namespaces, then keep-alive and events.
//!
//! Like the [queue pair](super::queue_pair) it outlives its connections; whoever drives it brings the stream and the
//! time, and is told in [`ControllerEvent`]s what the target is.
//!
//! ```text
//! Down --connecting--> Establishing (Step by Step) --> Live --shut_down--> ShuttingDown --> Down
//!  ^                        |                            |                      |
//!  '------------------------'-------- any error ---------'----------------------'
//! ```
//!
//! - [`steps`]: what is asked of the controller, one answer after the other.
//! - [`scan`]: which namespaces there are, and what they are like.

mod scan;
mod steps;
#[cfg(test)]
mod tests;

use super::auth::Authentication;
use super::connect;
use super::link::{Ended, Flow, Link, LinkError, Payload, ReceiveState, SendState};
use super::queue_pair::Vecs;
use crate::config::HostSettings;
use crate::host::namespaces::HostNamespace;
use nvferry_io::AlignedBuf;
use nvferry_io::stream::Stream;
use nvferry_io::vector::IoVecs;
use nvferry_wire::fabrics::Cap;
use nvferry_wire::{ControllerId, Nqn, Nsid, QueueId, Sqe};
use scan::Scan;
use std::time::{Duration, Instant};

/// The time that a controller has from the first byte to its first list of namespaces.
const ESTABLISH_TIME: Duration = Duration::from_secs(10);
/// The time that any admin command has, where the keep-alive timeout is longer.
const MAX_COMMAND_TIME: Duration = Duration::from_secs(10);
/// Entries of the admin queue.
const ADMIN_ENTRIES: u32 = 32;
/// The longest transfer that this host asks for, whatever the target would take.
const MAX_TRANSFER_BYTES: u32 = 1 << 20;
/// The wait between two looks at a controller that is not ready yet.
const READY_POLL: Duration = Duration::from_millis(10);
/// Bytes of the buffer that admin data is received into.
const RECEIVE_BUFFER_BYTES: usize = 16 << 10;

/// What a controller is and grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    /// Its id.
    pub cntlid: ControllerId,
    /// I/O queues that it grants.
    pub io_queues: u32,
    /// Entries that each I/O queue shall have.
    pub entries: u32,
    /// The most in-capsule data of an I/O command.
    pub in_capsule_bytes: u32,
    /// The longest transfer of one command.
    pub max_transfer_bytes: u32,
    /// Its serial number.
    pub serial: String,
    /// Its model number.
    pub model: String,
}

/// What a controller's owner is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControllerEvent {
    /// The controller is ready for I/O queues. Its namespaces follow at once.
    Ready(Association),
    /// These are its namespaces: all requests for a scan up to `ticket` are answered.
    Namespaces {
        /// All that can be used.
        namespaces: Vec<HostNamespace>,
        /// See [`Controller::rescan`].
        ticket: u64,
    },
    /// Whether the subsystem still has the controller that was asked for; `None` where it does not tell.
    Listed(Option<bool>),
    /// It was shut down as asked.
    ShutDown,
}

/// Which command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AdminCommand {
    Connect,
    Authenticate,
    GetCapabilities,
    Enable,
    GetStatus,
    IdentifyController,
    SetQueues,
    SetEvents,
    ChangedNamespaces,
    ActiveNamespaces,
    IdentifyNamespace(Nsid),
    Controllers { from: ControllerId },
    AsyncEvent,
    KeepAlive,
    ShutDown,
    GetShutDownStatus,
}

/// A command under way.
#[derive(Debug, Clone, Copy)]
struct AdminOp {
    command: AdminCommand,
    sent_at: Instant,
}

/// What establishing waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// That the stream stands.
    Stream,
    /// For ICResp.
    Initialize,
    /// For the answer to the command sent last.
    Answers,
    /// To look again whether the controller is ready.
    Ready { look_at: Instant },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Down,
    Establishing { step: Step, until: Instant },
    Live,
    ShuttingDown { look_at: Option<Instant> },
}

/// One target's controller, seen from the host.
#[derive(Debug)]
pub struct Controller {
    settings: HostSettings,
    subnqn: Nqn,
    io_queues: u32,
    state: State,
    link: Option<Link<AdminOp>>,
    ended: Vec<Ended<AdminOp>>,
    capabilities: Cap,
    association: Option<Association>,
    authentication: Option<Authentication>,
    scan: Scan,
    /// Namespaces have changed again while the list of those that had changed was on its way.
    changed_again: bool,
    keep_alive_at: Instant,
    events: Vec<ControllerEvent>,
    buffer: AlignedBuf,
    vecs: Vecs,
    trust_short_receives: bool,
}

impl Controller {
    /// A controller of subsystem `subnqn` without a connection, of which `io_queues` I/O queues shall be asked.
    #[must_use]
    pub fn new(settings: HostSettings, subnqn: Nqn, io_queues: u32, now: Instant) -> Self {
        Self {
            settings,
            subnqn,
            io_queues,
            state: State::Down,
            link: None,
            ended: Vec::new(),
            capabilities: Cap::default(),
            association: None,
            authentication: None,
            scan: Scan::default(),
            changed_again: false,
            keep_alive_at: now,
            events: Vec::new(),
            buffer: AlignedBuf::pages(RECEIVE_BUFFER_BYTES),
            vecs: Vecs(IoVecs::new()),
            trust_short_receives: true,
        }
    }

    /// For streams of which a short receive does not mean that nothing more is there, as those in memory.
    pub fn distrust_short_receives(&mut self) {
        self.trust_short_receives = false;
    }

    /// Whether the association stands.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Whether there is no connection, and none is being made.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.state == State::Down
    }

    /// A stream is being made. It has a limited time from now on to become an association.
    pub fn connecting(&mut self, now: Instant) {
        self.state = State::Establishing { step: Step::Stream, until: now + ESTABLISH_TIME };
    }

    /// The stream stands. Drive it.
    pub fn connected(&mut self, now: Instant) {
        // One entry of a queue always stays empty.
        let mut link = Link::new(ADMIN_ENTRIES as usize - 1, self.settings.digests, MAX_TRANSFER_BYTES);
        if !self.trust_short_receives {
            link.distrust_short_receives();
        }
        self.link = Some(link);
        self.scan.forget();
        self.changed_again = false;
        self.association = None;
        self.authentication = None;
        self.state = State::Establishing { step: Step::Initialize, until: now + ESTABLISH_TIME };
    }

    /// Asks which namespaces there are now. The answer is the first [`ControllerEvent::Namespaces`] with this ticket
    /// or a higher one.
    pub fn rescan(&mut self, now: Instant) -> u64 {
        let ticket = self.scan.request();
        if self.state == State::Live {
            self.scan_if_wanted(now);
        }
        ticket
    }

    /// Asks whether the subsystem has a controller. The answer is [`ControllerEvent::Listed`].
    pub fn look_for(&mut self, cntlid: ControllerId, now: Instant) {
        if self.state == State::Live {
            self.list_controllers(cntlid, now);
        }
    }

    /// Asks the controller to shut down. Drive it until [`ControllerEvent::ShutDown`], or give it up.
    pub fn shut_down(&mut self, now: Instant) {
        if self.state == State::Live {
            self.state = State::ShuttingDown { look_at: None };
            self.send_shut_down(now);
        } else {
            self.events.push(ControllerEvent::ShutDown);
        }
    }

    /// Receives (if `readable`), acts, sends what can be sent. Tells whether there may be more to receive: a target that
    /// sends without end is not listened to without end.
    ///
    /// # Errors
    /// Why the connection has to end; [`Self::lost`] has been called then, and the stream is to be dropped.
    pub fn drive(&mut self, stream: &mut dyn Stream, now: Instant, readable: bool) -> Result<bool, LinkError> {
        let driven = self.try_drive(stream, now, readable);
        if let Err(error) = &driven {
            self.lost(error, Some(stream));
        }
        driven
    }

    fn try_drive(&mut self, stream: &mut dyn Stream, now: Instant, readable: bool) -> Result<bool, LinkError> {
        let mut more = false;
        if readable && let Some(link) = &mut self.link {
            let received = link.receive(stream, &mut self.vecs.0, &mut self.buffer);
            self.settle(now)?;
            more = received? == ReceiveState::More;
        }
        self.begin_if_open(now)?;
        self.scan_if_wanted(now);
        let Some(link) = &mut self.link else { return Ok(more) };
        let _blocked: SendState = link.flush(stream, &mut self.vecs.0)?;
        self.settle(now)?;
        Ok(more)
    }

    /// The connection is no more, or was not made.
    pub fn lost(&mut self, error: &LinkError, stream: Option<&mut dyn Stream>) {
        self.state = State::Down;
        if let Some(mut link) = self.link.take() {
            link.take_ended(&mut self.ended);
            self.ended.clear();
            // Admin commands are not tried again: the next association begins from the start.
            drop(link.dismantle(error, stream, &mut self.vecs.0));
        }
    }

    /// What the owner is to be told.
    pub fn take_events(&mut self) -> Vec<ControllerEvent> {
        std::mem::take(&mut self.events)
    }

    /// When [`Self::tick`] is to be called next.
    #[must_use]
    pub fn next_timer(&self) -> Option<Instant> {
        let timer = match self.state {
            State::Down => None,
            State::Establishing { step: Step::Ready { look_at }, until } => Some(look_at.min(until)),
            State::Establishing { until, .. } => Some(until),
            State::Live => Some(self.keep_alive_at),
            State::ShuttingDown { look_at } => look_at,
        };
        let unanswered = self.oldest_command().map(|sent_at| sent_at + self.command_time());
        match (timer, unanswered) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Acts on the time. Drive the controller afterwards.
    ///
    /// # Errors
    /// Why the connection has to end; the caller calls [`Self::lost`].
    pub fn tick(&mut self, now: Instant) -> Result<(), LinkError> {
        if let Some((op, _)) = self.unanswered(now) {
            return Err(LinkError::GivenUp(format!("{:?} was not answered in time", op.command).into()));
        }
        match self.state {
            State::Establishing { step, until } if until <= now => Err(LinkError::GivenUp(
                match step {
                    Step::Stream => "nobody answered there in time",
                    Step::Initialize => "ICReq was not answered in time",
                    Step::Answers | Step::Ready { .. } => "the controller did not become ready in time",
                }
                .into(),
            )),
            State::Establishing { step: Step::Ready { look_at }, until } if look_at <= now => {
                self.state = State::Establishing { step: Step::Answers, until };
                self.get_status(AdminCommand::GetStatus, now);
                Ok(())
            }
            State::Live if self.keep_alive_at <= now => {
                self.send_keep_alive(now);
                Ok(())
            }
            State::ShuttingDown { look_at: Some(look_at) } if look_at <= now => {
                self.state = State::ShuttingDown { look_at: None };
                self.get_status(AdminCommand::GetShutDownStatus, now);
                Ok(())
            }
            State::Down | State::Establishing { .. } | State::Live | State::ShuttingDown { .. } => Ok(()),
        }
    }

    /// The time that an admin command has: a controller that is silent for longer than the keep-alive timeout is gone.
    fn command_time(&self) -> Duration {
        self.settings.kato.min(MAX_COMMAND_TIME)
    }

    fn commands(&self) -> impl Iterator<Item = AdminOp> {
        let commands = self.link.iter().flat_map(Link::commands).map(|(_, op, _)| *op);
        commands.filter(|op| op.command != AdminCommand::AsyncEvent)
    }

    fn oldest_command(&self) -> Option<Instant> {
        self.commands().map(|op| op.sent_at).min()
    }

    fn unanswered(&self, now: Instant) -> Option<(AdminOp, Instant)> {
        let late = |op: &AdminOp| op.sent_at + self.command_time() <= now;
        self.commands().find(late).map(|op| (op, op.sent_at))
    }

    /// Hands a command to the link.
    fn send(&mut self, command: AdminCommand, sqe: Sqe, flow: Flow, payload: Payload, now: Instant) {
        let Some(link) = &mut self.link else { return };
        let submitted = link.submit(sqe, flow, payload, AdminOp { command, sent_at: now });
        debug_assert!(submitted.is_ok(), "{command:?}: more admin commands than the queue has entries");
    }
}

/// The parameters of I/O queue number `qid` of an association.
pub(crate) fn queue_params(
    association: &Association,
    settings: &HostSettings,
    subnqn: &Nqn,
    qid: QueueId,
) -> super::queue_pair::QueueParams {
    super::queue_pair::QueueParams {
        qid,
        entries: association.entries,
        cntlid: association.cntlid,
        subnqn: subnqn.clone(),
        host_nqn: settings.host_nqn.clone(),
        host_id: settings.host_id,
        digests: settings.digests,
        in_capsule_bytes: association.in_capsule_bytes,
        max_transfer_bytes: association.max_transfer_bytes,
        secret: settings.secret.clone(),
        controller_secret: settings.controller_secret.clone(),
    }
}
