//! The scripted target on real sockets: for what only a whole transport shows.

use super::admin::AdminScript;
use super::scripted::ScriptedTarget;
use nvferry_io::TcpStream;
use nvferry_io::poller::{Events, Interest, Poller, Trigger};
use nvferry_io::stream::TcpOptions;
use nvferry_wire::Sqe;
use nvferry_wire::admin::{AdminOpcode, Identify};
use nvferry_wire::fabrics::{Connect, FABRICS_OPCODE, FabricsType};
use nvferry_wire::identify::Cns;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What all connections of the target share.
pub(crate) struct SocketTarget {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    script: Mutex<AdminScript>,
    store: Mutex<Vec<u8>>,
    /// I/O queues that were connected, since this was last emptied.
    qids: Mutex<Vec<u16>>,
    connections: Mutex<Vec<std::net::TcpStream>>,
    /// Whether new connections are closed at once.
    deaf: Mutex<bool>,
    /// How long it takes to answer which namespaces there are.
    list_takes: Mutex<Duration>,
    /// For each time that it was asked: the I/O queues that were there when it had answered; `None` while it has not.
    lists: Mutex<Vec<Option<Vec<u16>>>>,
}

impl SocketTarget {
    /// Serves this file to whoever connects, under any name.
    pub(crate) fn start(script: AdminScript, store: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            store: Mutex::new(store),
            qids: Mutex::default(),
            connections: Mutex::default(),
            deaf: Mutex::new(false),
            list_takes: Mutex::default(),
            lists: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if *accepting.deaf.lock().unwrap() {
                    continue;
                }
                accepting.connections.lock().unwrap().push(stream.try_clone().unwrap());
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { address, shared }
    }

    /// Ends all connections and takes no more, until [`Self::wake`].
    pub(crate) fn sleep(&self) {
        *self.shared.deaf.lock().unwrap() = true;
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Is back, and grants that many I/O queues.
    pub(crate) fn wake(&self, queues: u32) {
        let mut script = self.shared.script.lock().unwrap();
        script.queues = queues;
        script.waiting_event = None;
        self.shared.qids.lock().unwrap().clear();
        *self.shared.deaf.lock().unwrap() = false;
    }

    /// From now on it takes its time to tell which namespaces there are.
    pub(crate) fn list_slowly(&self, takes: Duration) {
        *self.shared.list_takes.lock().unwrap() = takes;
        self.shared.lists.lock().unwrap().clear();
    }

    /// For each time that it was asked since: the I/O queues that were there when it answered; `None` while it has not.
    pub(crate) fn lists(&self) -> Vec<Option<Vec<u16>>> {
        self.shared.lists.lock().unwrap().clone()
    }

    /// I/O queues that were connected since it woke.
    pub(crate) fn qids(&self) -> Vec<u16> {
        let mut qids = self.shared.qids.lock().unwrap().clone();
        qids.sort_unstable();
        qids
    }

    pub(crate) fn store(&self) -> Vec<u8> {
        self.shared.store.lock().unwrap().clone()
    }
}

impl Drop for SocketTarget {
    fn drop(&mut self) {
        self.sleep();
    }
}

impl Shared {
    fn serve(&self, stream: std::net::TcpStream) {
        let stream = TcpStream::from_std(stream, TcpOptions::default()).unwrap();
        let poller = Poller::new().unwrap();
        poller.add(stream.as_fd(), 0, Interest::READ, Trigger::Level).unwrap();
        let mut events = Events::with_capacity(1);
        let mut target = ScriptedTarget::new(stream);
        let mut is_admin = true;
        while !target.ended {
            poller.wait(&mut events, Some(Duration::from_secs(1))).unwrap();
            for heard in target.hear() {
                if let Some(sqe) = heard.command()
                    && sqe.opcode() == FABRICS_OPCODE
                    && FabricsType::of(&sqe) == Ok(FabricsType::Connect)
                {
                    let qid = Connect::decode(&sqe).unwrap().qid;
                    is_admin = qid.is_admin();
                    if !is_admin {
                        self.qids.lock().unwrap().push(qid.0);
                    }
                }
                let is_list = |sqe: &Sqe| {
                    sqe.opcode() == AdminOpcode::Identify as u8
                        && Identify::decode(sqe).is_ok_and(|identify| identify.cns == Cns::ActiveNamespaceList)
                };
                if is_admin && heard.command().is_some_and(|sqe| is_list(&sqe)) {
                    self.lists.lock().unwrap().push(None);
                    std::thread::sleep(*self.list_takes.lock().unwrap());
                    *self.lists.lock().unwrap().last_mut().unwrap() = Some(self.qids.lock().unwrap().clone());
                }
                if is_admin {
                    self.script.lock().unwrap().answer(&mut target, &heard);
                } else {
                    target.serve(&heard, &mut self.store.lock().unwrap(), usize::MAX, true);
                }
            }
        }
    }
}
