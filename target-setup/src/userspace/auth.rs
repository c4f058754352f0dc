//! Hosts prove who they are: DH-HMAC-CHAP on a connection, and the thread that computes it.
//!
//! A queue of a host with a secret takes nothing but Authentication Send and Receive until the host has proved itself;
//! admin and I/O queues alike. What a message leads to may take milliseconds (a power modulo a prime of up to 8192 bits), so
//! no reactor computes it: one thread of the target does, with a short queue. Where that is full a host is told to
//! try again. So a flood of exchanges costs one core, and hosts that are connected notice nothing. Each queue has one
//! message under way at most, and a limited time for all of them.

use super::command::Work;
use super::connection::{Connection, Slot, Stage};
use super::core::Core;
use super::counters::count;
use super::limits;
use super::mailbox::{ConnectionKey, Letter, Mailbox};
use super::{admin::Reply, dispatch::Taken};
use crate::driver::HostProof;
use nvferry_auth::{ControllerExchange, ControllerTerms, Standing};
use nvferry_io::Stream;
use nvferry_wire::auth::{AuthReceive, AuthSend};
use nvferry_wire::fabrics::{FABRICS_OPCODE, FabricsType};
use nvferry_wire::pdu::{PduLayout, TermReq};
use nvferry_wire::{SglDescriptor, Sqe, Status, StatusCode};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// Shared with the thread that computes. Locked by either only while the other has nothing to do with it.
type SharedExchange = Arc<Mutex<ControllerExchange>>;

fn lock(exchange: &SharedExchange) -> MutexGuard<'_, ControllerExchange> {
    // An exchange that a panic left half done is in its first state, and proves nothing.
    exchange.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a queue's host has to prove.
pub(crate) struct QueueAuth {
    exchange: SharedExchange,
    proved: bool,
    /// The Authentication Send that is under way.
    sending: Option<u16>,
}

impl QueueAuth {
    pub(crate) fn new(terms: ControllerTerms) -> Self {
        Self { exchange: Arc::new(Mutex::new(ControllerExchange::new(terms))), proved: false, sending: None }
    }

    pub(crate) fn is_proved(&self) -> bool {
        self.proved
    }
}

/// A message to be taken in.
pub(crate) struct Job {
    exchange: SharedExchange,
    message: Vec<u8>,
    mailbox: Arc<Mailbox>,
    key: ConnectionKey,
}

/// Takes hosts' messages in, away from the reactors.
pub(crate) enum Prover {
    /// Where they come: for targets without secrets, and for tests that want no threads.
    Here,
    Thread {
        jobs: Option<SyncSender<Job>>,
        stopping: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    },
}

impl Prover {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, waiting) = sync_channel(limits::MAX_WAITING_PROOFS);
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let thread = std::thread::Builder::new().name("nvf-target-auth".into()).spawn(move || work(&waiting, &stop))?;
        Ok(Self::Thread { jobs: Some(jobs), stopping, thread: Some(thread) })
    }

    /// Takes a message in; a letter tells when that is done. `false` when too many wait.
    fn submit(&self, job: Job) -> bool {
        match self {
            Self::Here => {
                lock(&job.exchange).take(&job.message);
                job.mailbox.post(Letter::AuthTaken(job.key));
                true
            }
            Self::Thread { jobs, .. } => jobs.as_ref().is_some_and(|jobs| jobs.try_send(job).is_ok()),
        }
    }
}

impl Drop for Prover {
    fn drop(&mut self) {
        if let Self::Thread { jobs, stopping, thread } = self {
            stopping.store(true, Ordering::Relaxed);
            drop(jobs.take());
            // It ends after the message that it works on: some milliseconds.
            let ended = thread.take().map(JoinHandle::join);
            if let Some(Err(_)) = ended {
                tracing::error!(target: "nvferry::target", "the authentication thread panicked");
            }
        }
    }
}

fn work(jobs: &Receiver<Job>, stopping: &AtomicBool) {
    while let Ok(Job { exchange, message, mailbox, key }) = jobs.recv() {
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        lock(&exchange).take(&message);
        mailbox.post(Letter::AuthTaken(key));
    }
}

impl<S: Stream> Connection<S> {
    /// Takes a command on a queue whose host has a secret, if it has to do with that; `None` for all other commands
    /// of a host that has proved itself.
    pub(crate) fn take_auth(
        &mut self,
        core: &mut Core,
        sqe: &Sqe,
        layout: &PduLayout,
        now: Instant,
    ) -> Result<Option<Taken>, TermReq> {
        let Some(auth) = self.queue.as_ref().and_then(|queue| queue.auth.as_ref()) else { return Ok(None) };
        let fabrics = if sqe.opcode() == FABRICS_OPCODE { FabricsType::of(sqe).ok() } else { None };
        let refused = match fabrics {
            // One message at a time.
            Some(FabricsType::AuthSend | FabricsType::AuthReceive) if auth.sending.is_some() => {
                StatusCode::CommandSequenceError
            }
            Some(FabricsType::AuthSend) => match auth_send(sqe) {
                Ok((sgl, length_bytes)) => {
                    let slot = self.new_slot(sqe, Work::AuthSend)?;
                    if let Some(auth) = self.auth() {
                        auth.sending = Some(slot);
                    }
                    return Ok(Some(self.take_host_data(core, slot, sgl, length_bytes, layout)));
                }
                Err(code) => code,
            },
            Some(FabricsType::AuthReceive) => match self.take_auth_receive(core, sqe, now) {
                Ok(()) => return Ok(Some(Taken::Ended)),
                Err(code) => code,
            },
            _ if auth.proved => return Ok(None),
            _ => StatusCode::AuthenticationRequired,
        };
        self.reply(core, sqe, Reply::from(refused));
        Ok(Some(Taken::Ended))
    }

    fn auth(&mut self) -> Option<&mut QueueAuth> {
        self.queue.as_mut()?.auth.as_mut()
    }

    /// The command in this slot ends: if it brought a message, the next may come.
    pub(crate) fn auth_send_ended(&mut self, index: u16) {
        if let Some(auth) = self.auth()
            && auth.sending == Some(index)
        {
            auth.sending = None;
        }
    }

    /// A message has come, the first `bytes` of the slot's buffer.
    pub(crate) fn auth_message(&mut self, core: &mut Core, index: u16) {
        let (key, Slot { buffer, data_bytes, .. }) = (self.key, &self.slots[usize::from(index)]);
        let message = buffer.as_ref().map(|(buffer, _)| buffer[..*data_bytes as usize].to_vec()).unwrap_or_default();
        let Some(auth) = self.auth() else { return };
        let exchange = Arc::clone(&auth.exchange);
        self.slots[usize::from(index)].stage = Stage::Proving;
        if !core.subsystem.prover.submit(Job { exchange, message, mailbox: Arc::clone(&core.mailbox), key }) {
            tracing::warn!(target: "nvferry::target", peer = self.ends.peer(), "too many hosts authenticate at once; told one to try again");
            self.complete(core, index, Status::new(StatusCode::CommandInterrupted), 0);
        }
    }

    /// The message has been taken in.
    pub(crate) fn auth_taken(&mut self, core: &mut Core, now: Instant) {
        let Some(index) = self.auth().and_then(|auth| auth.sending) else { return };
        if self.slots[usize::from(index)].stage == Stage::Proving {
            self.complete(core, index, Status::SUCCESS, 0);
            self.auth_stands(core, now);
        }
    }

    /// Gives the host its next message.
    fn take_auth_receive(&mut self, core: &mut Core, sqe: &Sqe, now: Instant) -> Result<(), StatusCode> {
        let AuthReceive { length_bytes } = AuthReceive::decode(sqe)?;
        match sqe.sgl().map_err(|error| error.status())? {
            SglDescriptor::Transport { length } if length == length_bytes => {}
            SglDescriptor::Transport { .. } => return Err(StatusCode::SglDataLengthInvalid),
            SglDescriptor::InCapsule { .. } | SglDescriptor::Keyed { .. } => {
                return Err(StatusCode::SglDescriptorTypeInvalid);
            }
        }
        let message = self.auth().and_then(|auth| lock(&auth.exchange).give());
        let mut message = message.ok_or(StatusCode::CommandSequenceError)?;
        if message.len() > length_bytes as usize {
            self.reply(core, sqe, Reply::from(StatusCode::InvalidField));
            self.auth_refused(core, "its buffer is too small for the next message", now);
            return Ok(());
        }
        // All that was asked for: some hosts take less for a broken transfer.
        message.resize(length_bytes as usize, 0);
        self.reply(core, sqe, Reply::data(message.into()));
        self.auth_stands(core, now);
        Ok(())
    }

    /// Acts on how the exchange stands now.
    fn auth_stands(&mut self, core: &mut Core, now: Instant) {
        let Some(auth) = self.auth() else { return };
        let standing = lock(&auth.exchange).standing();
        match standing {
            Standing::Proved if !auth.proved => {
                auth.proved = true;
                self.phase_deadline = None;
                if let Some(queue) = &self.queue {
                    if queue.qid.is_admin() {
                        queue.controller.set_proof(HostProof::Proved);
                    }
                    tracing::info!(
                        target: "nvferry::target", peer = self.ends.peer(), host = %queue.controller.host, cntlid = queue.controller.id.0,
                        qid = queue.qid.0, "host authenticated"
                    );
                }
                self.becomes_known(core);
            }
            Standing::Proved | Standing::Open => {}
            Standing::Failed(why) => self.auth_refused(core, why, now),
        }
    }

    /// The host did not prove itself: the connection ends.
    fn auth_refused(&mut self, core: &mut Core, why: &'static str, now: Instant) {
        if let Some(queue) = &self.queue {
            tracing::warn!(
                target: "nvferry::target", peer = self.ends.peer(), host = %queue.controller.host, qid = queue.qid.0, reason = why,
                "refused a host that did not authenticate"
            );
        }
        count(&core.subsystem.faults.refused_hosts);
        self.ends_because("the host did not authenticate");
        self.linger(core, now);
    }
}

/// Where the message is, and how long.
fn auth_send(sqe: &Sqe) -> Result<(SglDescriptor, u32), StatusCode> {
    let AuthSend { length_bytes } = AuthSend::decode(sqe)?;
    let sgl = sqe.sgl().map_err(|error| error.status())?;
    if sgl.length_bytes() != length_bytes {
        return Err(StatusCode::SglDataLengthInvalid);
    }
    Ok((sgl, length_bytes))
}
