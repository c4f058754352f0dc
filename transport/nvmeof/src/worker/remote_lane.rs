//! One worker's way to one target: an I/O queue pair and its socket.

use super::run::Context;
use crate::attachment::Attachment;
use crate::host::userspace::LinkError;
use crate::host::userspace::control::ControlMessage;
use crate::host::userspace::queue_pair::{QueuePair, QueueParams};
use crate::host::userspace::socket::{HostSocket, Progress};
use nvferry_engine::{Failure, Slice};
use nvferry_io::poller::Event;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug)]
pub(super) struct RemoteLane {
    attachment: Arc<Attachment>,
    pub(super) queue: QueuePair,
    socket: HostSocket,
    /// The control thread knows that a connection is wanted.
    asked: bool,
}

impl RemoteLane {
    pub(super) fn new(attachment: Arc<Attachment>, context: &Context) -> Self {
        let table = attachment.with_view(|view| Arc::clone(&view.table));
        let mut queue = QueuePair::new(table, context.pool.clone());
        queue.count_paths_in(Arc::clone(&context.taken));
        attachment.latencies(context.worker).into_iter().for_each(|latencies| queue.note_latencies_in(latencies));
        Self { attachment, queue, socket: HostSocket::default(), asked: false }
    }

    /// Makes the I/O queue.
    pub(super) fn connect(
        &mut self,
        address: SocketAddr,
        params: Arc<QueueParams>,
        context: &mut Context,
        now: Instant,
    ) {
        self.asked = false;
        if !self.queue.is_down() {
            self.disconnect(LinkError::GivenUp("its controller is new".into()), context, now);
        }
        self.queue.connecting(params, now);
        match HostSocket::connect(address, &context.poller, super::token(self.attachment.id)) {
            Ok(socket) => self.socket = socket,
            Err(error) => self.lost(error.into(), context, now),
        }
    }

    /// The controller is gone or could not be reached: ends the connection from this side; slices wait for the next.
    pub(super) fn disconnect(&mut self, error: LinkError, context: &mut Context, now: Instant) {
        if self.queue.is_down() {
            self.queue.unreachable(error);
        } else {
            self.queue.lost(error, None, &mut context.scratch, now);
        }
        self.socket.close();
        self.asked = false;
    }

    /// The socket says that there is something to do.
    pub(super) fn event(&mut self, event: &Event) {
        self.socket.event(event);
    }

    /// Does what can be done; tells whether there may be more at once.
    pub(super) fn drive(&mut self, context: &mut Context, now: Instant) -> bool {
        match self.socket.progress() {
            Ok(Progress::Waiting) => {}
            Ok(Progress::JustConnected) => {
                self.queue.connected(now);
                return self.drive_connected(context, now);
            }
            Ok(Progress::Connected) => return self.drive_connected(context, now),
            Err(error) => self.lost(error.into(), context, now),
        }
        self.ask_if_wanted(context);
        false
    }

    fn drive_connected(&mut self, context: &mut Context, now: Instant) -> bool {
        let readable = self.socket.take_readable();
        let Some(stream) = self.socket.stream() else { return false };
        let was_ready = self.queue.is_ready();
        match self.queue.drive(stream, &mut context.scratch, now, readable) {
            Ok(driven) => {
                if !was_ready && self.queue.is_ready() {
                    context.control.send(ControlMessage::QueueUp { id: self.attachment.id, worker: context.worker });
                }
                readable && self.socket.received(driven.more)
            }
            Err(error) => {
                self.socket.close();
                self.report_loss(error, context);
                false
            }
        }
    }

    /// Looks at deadlines.
    pub(super) fn tick(&mut self, context: &mut Context, now: Instant) {
        if let Err(error) = self.queue.tick(self.socket.stream(), now) {
            self.lost(error, context, now);
        }
    }

    fn lost(&mut self, error: LinkError, context: &mut Context, now: Instant) {
        self.queue.lost(error.clone(), self.socket.stream(), &mut context.scratch, now);
        self.socket.close();
        self.report_loss(error, context);
    }

    fn report_loss(&mut self, error: LinkError, context: &mut Context) {
        let (id, worker, worked) = (self.attachment.id, context.worker, self.queue.has_worked());
        context.control.send(ControlMessage::QueueLost { id, worker, worked, error });
        self.asked = false;
        self.ask_if_wanted(context);
    }

    fn ask_if_wanted(&mut self, context: &Context) {
        if !self.asked && self.queue.is_down() && !self.queue.is_idle() {
            self.asked = true;
            context.control.send(ControlMessage::QueueWanted { id: self.attachment.id, worker: context.worker });
        }
    }

    /// Takes all slices, to be moved by another worker.
    pub(super) fn evict(&mut self, context: &mut Context, now: Instant) -> Vec<Slice> {
        self.socket.close();
        self.asked = false;
        self.queue.evict(&mut context.scratch, now)
    }

    /// Ends everything.
    pub(super) fn close(&mut self, context: &mut Context, now: Instant, why: impl Fn() -> Failure) {
        self.socket.close();
        self.queue.close(&mut context.scratch, now, why);
    }
}
