//! Authentication of one queue, alike on admin and I/O queues: DH-HMAC-CHAP's messages as commands on a link.
//!
//! The target decides whether there is one, and which DH group it takes: with a group, each queue that is connected costs its
//! thread some milliseconds (up to some tens with ffdhe8192), once for each connection.

use super::link::{Flow, LinkError, Payload};
use nvferry_auth::{HostAuthError, HostExchange, HostFailure, HostTerms, Secret};
use nvferry_wire::auth::{AuthReceive, AuthSend, MAX_AUTH_DATA_BYTES};
use nvferry_wire::fabrics::ConnectResult;
use nvferry_wire::{CommandId, Cqe, Nqn, Sqe};
use std::sync::atomic::{AtomicU16, Ordering};

/// The link fills in the real one.
const CID: CommandId = CommandId(0);

/// What this host knows and wants to see proved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Secrets<'a> {
    pub(crate) host: &'a Nqn,
    pub(crate) subsystem: &'a Nqn,
    pub(crate) secret: Option<&'a Secret>,
    pub(crate) controller_secret: Option<&'a Secret>,
}

/// A command to be submitted to the link.
pub(crate) type Command = (Sqe, Flow, Payload);

/// What to do next.
#[derive(Debug)]
pub(crate) enum Next {
    Submit(Command),
    /// The queue may be used.
    Done,
}

/// The authentication of a queue.
#[derive(Debug)]
pub(crate) struct Authentication {
    exchange: HostExchange,
    step: Step,
}

/// Which command is under way.
#[derive(Debug)]
enum Step {
    Negotiate,
    Challenge,
    Reply,
    Verdict,
    Success2,
    /// The target is being told that this host gives up.
    GivingUp(LinkError),
}

impl Authentication {
    /// Begins, if the answer to Connect asks for it.
    ///
    /// # Errors
    /// The target asks for what this host does not have, or does not prove itself as this host wants.
    pub(crate) fn begin(connected: ConnectResult, secrets: Secrets<'_>) -> Result<Option<(Self, Command)>, LinkError> {
        if connected.secure_channel_required {
            let why = "the target wants a secure channel (TLS), which this host does not have";
            return Err(LinkError::GivenUp(why.into()));
        }
        if !connected.authentication_required {
            if secrets.controller_secret.is_some() {
                return Err(LinkError::Auth(HostAuthError::TargetUnproved("it authenticates nobody")));
            }
            return Ok(None);
        }
        let Some(secret) = secrets.secret else { return Err(LinkError::NoSecret) };
        let terms = HostTerms {
            host: secrets.host.clone(),
            subsystem: secrets.subsystem.clone(),
            secret: secret.clone(),
            controller_secret: secrets.controller_secret.cloned(),
        };
        static TRANSACTION: AtomicU16 = AtomicU16::new(1);
        let (exchange, message) = HostExchange::begin(terms, TRANSACTION.fetch_add(1, Ordering::Relaxed));
        Ok(Some((Self { exchange, step: Step::Negotiate }, send(message))))
    }

    /// The command under way has ended, with this data.
    ///
    /// # Errors
    /// Why the connection has to end.
    pub(crate) fn answered(&mut self, cqe: Cqe, data: &[u8]) -> Result<Next, LinkError> {
        let step = std::mem::replace(&mut self.step, Step::Success2);
        if let Step::GivingUp(error) = step {
            return Err(error);
        }
        if !cqe.status.is_success() {
            let what = match step {
                Step::Negotiate | Step::Reply | Step::Success2 | Step::GivingUp(_) => "Authentication Send",
                Step::Challenge | Step::Verdict => "Authentication Receive",
            };
            return Err(LinkError::Refused { what, status: cqe.status.for_fabrics(), detail: "".into() });
        }
        let message = match step {
            Step::Negotiate => return Ok(self.go(Step::Challenge, receive())),
            Step::Reply => return Ok(self.go(Step::Verdict, receive())),
            Step::Challenge => self.exchange.challenged(data).map(|reply| Some((Step::Reply, reply))),
            Step::Verdict => self.exchange.concluded(data).map(|message| message.map(|it| (Step::Success2, it))),
            Step::Success2 | Step::GivingUp(_) => Ok(None),
        };
        match message {
            Ok(Some((step, message))) => Ok(self.go(step, send(message))),
            Ok(None) => Ok(Next::Done),
            Err(HostFailure { message: Some(message), why }) => {
                Ok(self.go(Step::GivingUp(LinkError::Auth(why)), send(message)))
            }
            Err(HostFailure { message: None, why }) => Err(LinkError::Auth(why)),
        }
    }

    fn go(&mut self, step: Step, command: Command) -> Next {
        self.step = step;
        Next::Submit(command)
    }
}

fn send(message: Vec<u8>) -> Command {
    // A message has at most MAX_MESSAGE_BYTES, a little more than a thousand.
    let length_bytes = message.len() as u32;
    (AuthSend { length_bytes }.sqe(CID), Flow::InCapsule(length_bytes), Payload::Bytes(message.into()))
}

fn receive() -> Command {
    let length_bytes = MAX_AUTH_DATA_BYTES;
    let room = vec![0; length_bytes as usize];
    (AuthReceive { length_bytes }.sqe(CID), Flow::ToHost(length_bytes), Payload::Bytes(room.into()))
}
