//! Connections that come and go, half-open ones, targets that are full and that refuse.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Host, Node, Transfer, install, make_file, pattern, soon, temp_dir};
use nvferry_engine::error::ErrorKind;
use nvferry_engine::{FileBufferId, SegmentDesc, TransferState, Transport};
use nvferry_io::RegisteredMemory;
use nvferry_nvmeof::{ConnectionState, NvmeofOptions};
use nvferry_target::{NamespaceSpec, TargetDriver, TargetSpec, UserspaceOptions, UserspaceTarget};
use nvferry_testing::{Proxy, Usage};
use nvferry_wire::{Nqn, Nsid, TransportId};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const FILE: FileBufferId = FileBufferId(1);

/// A target of this process, with what only tests set, and its description.
fn target(path: &Path, options: UserspaceOptions) -> (Arc<UserspaceTarget>, SegmentDesc) {
    let listen: TransportId = "traddr=127.0.0.1 trsvcid=0".parse().unwrap();
    let spec = TargetSpec::new(listen, Nqn::new("nqn.2016-06.io.mc:connections").unwrap());
    let target = UserspaceTarget::start(spec, options).unwrap();
    let size = std::fs::metadata(path).unwrap().len();
    target.add_namespace(NamespaceSpec::new(Nsid(1), path, size)).unwrap();
    let mut segment = SegmentDesc::new("connections", "nvmeof_generic");
    let fields = target.address().fields().into_iter();
    let trid: serde_json::Map<_, _> = fields.map(|(key, value)| (key.to_owned(), value.into())).collect();
    segment.extra.insert("nvmeof_generic_trid".into(), trid.into());
    (target, segment)
}

fn redirect(segment: &mut SegmentDesc, to: SocketAddr) {
    let trid = segment.extra["nvmeof_generic_trid"].as_object_mut().unwrap();
    trid.insert("trsvcid".into(), to.port().to_string().into());
}

#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let patience = soon();
    while !is_so() {
        assert!(Instant::now() < patience, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Both sides are in this process.
#[test]
fn p02_a_thousand_connects_and_disconnects_leave_nothing_behind() {
    let dir = temp_dir();
    let content = pattern(1 << 20, 1);
    let path = make_file(dir.path(), "file", &content);
    let (target, segment) = target(&path, UserspaceOptions::default());
    let transport = install("host", NvmeofOptions::new().workers(2), None);
    let rounds = |count: u64| {
        for round in 0..count {
            let host = Host::with(Arc::clone(&transport), &segment);
            let at = round % 16 * 65_536;
            assert!(host.read(FILE, at, 65_536).unwrap() == content[at as usize..][..65_536]);
            match round % 3 {
                0 => host.segment.close(soon()),
                // Dropped, or dropped in the middle of something.
                1 => {}
                _ => drop(host.start(&Transfer::read(FILE, 0), &RegisteredMemory::allocate(4096), 0..4096)),
            }
        }
        eventually("all connections are gone", || target.status().connections == 0);
    };
    rounds(100);
    let before = Usage::here();
    rounds(1000);
    assert!(target.status().controllers.unwrap().is_empty());
    assert_eq!(transport.status().attachments.len(), 0);
    let after = Usage::here();
    assert!(after.descriptors <= before.descriptors && after.threads <= before.threads, "{before:?}, then {after:?}");
    // A kilobyte each would be a mebibyte.
    assert!(after.memory_bytes < before.memory_bytes + (1 << 20), "{before:?}, then {after:?}");
}

#[test]
fn p02_a_target_at_its_limit_refuses_the_newcomer_and_serves_the_rest() {
    let dir = temp_dir();
    let path = make_file(dir.path(), "file", &pattern(1 << 20, 1));
    let mut options = UserspaceOptions::default();
    options.max_connections = 4;
    let (_target, segment) = target(&path, options);
    let first = Host::attach(NvmeofOptions::new().workers(1), &segment);
    let second = Host::attach(NvmeofOptions::new().workers(1), &segment);
    let read = |host: &Host| host.read(FILE, 0, 4096).is_ok();
    assert!(read(&first) && read(&second));
    let Err(refused) = install("newcomer", NvmeofOptions::new(), None).attach(&segment, soon()) else {
        panic!("it was let in");
    };
    assert_eq!(refused.kind(), ErrorKind::RejectHandshake, "{refused}");
    assert!(refused.to_string().contains("Connect Controller Busy"), "{refused}");
    assert!(read(&first) && read(&second));
    drop(first);
    eventually("there is room again", || {
        install("newcomer", NvmeofOptions::new(), None).attach(&segment, soon()).is_ok()
    });
    assert!(read(&second));
}

/// More connections than the target takes of hosts, none of which is a host's.
#[test]
fn p14_connections_that_say_nothing_keep_no_host_out() {
    let dir = temp_dir();
    let path = make_file(dir.path(), "file", &pattern(1 << 20, 1));
    let mut options = UserspaceOptions::default();
    options.max_connections = 4;
    let (target, segment) = target(&path, options);
    let address = target.address().socket_addr();
    let first = Host::attach(NvmeofOptions::new().workers(1), &segment);
    first.read(FILE, 0, 4096).unwrap();
    let idle: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
    eventually("all are accepted", || target.status().connections == idle.len() + 2);
    let second = Host::attach(NvmeofOptions::new().workers(1), &segment);
    second.read(FILE, 0, 4096).unwrap();
    first.read(FILE, 0, 4096).unwrap();
    assert_eq!(target.status().connections, idle.len() + 4);
    drop(idle);
    eventually("only hosts are left", || target.status().connections == 4);
}

/// Nothing passes any more, and nobody is told: both sides find out by themselves, and let go of everything.
#[test]
fn p08_half_open_connections_are_found_on_both_sides() {
    let dir = temp_dir();
    let path = make_file(dir.path(), "file", &pattern(1 << 20, 1));
    let (target, mut segment) = target(&path, UserspaceOptions::default());
    let proxy = Proxy::to(target.address().socket_addr());
    redirect(&mut segment, proxy.address);
    let host = Host::attach(NvmeofOptions::new().keep_alive(Duration::from_secs(1)), &segment);
    host.read(FILE, 0, 4096).unwrap();
    assert!(target.status().connections >= 2);
    proxy.freeze();
    eventually("the target lets go", || {
        target.status().connections == 0 && target.status().controllers.unwrap().is_empty()
    });
    eventually("the host knows", || {
        matches!(host.transport.status().attachments[0].state, ConnectionState::Reconnecting(_))
    });
    proxy.cut();
    proxy.thaw();
    host.read(FILE, 0, 4096).unwrap();
}

/// A host that has lost its connections while a write of 0xAA was on its way: the target has heard neither of that nor of the
/// write.
struct Stuck {
    _dir: tempfile::TempDir,
    path: PathBuf,
    target: Arc<UserspaceTarget>,
    segment: SegmentDesc,
    proxy: Proxy,
    host: Host,
    write: u32,
}

impl Stuck {
    fn new() -> Self {
        let dir = temp_dir();
        let path = make_file(dir.path(), "file", &[0; 1 << 20]);
        let (target, mut segment) = target(&path, UserspaceOptions::default());
        let proxy = Proxy::to(target.address().socket_addr());
        redirect(&mut segment, proxy.address);
        let host = Host::attach(NvmeofOptions::new().workers(1).keep_alive(Duration::from_secs(2)), &segment);
        host.read(FILE, 0, 4096).unwrap();
        assert_eq!(proxy.accepted(), 2, "an admin and an I/O queue");
        (0..2).for_each(|connection| proxy.freeze_connection(connection));
        let write = host.start(&Transfer::write(FILE, 0), &RegisteredMemory::from(vec![0xAA; 4096]), 0..4096);
        eventually("the write is on its way", || proxy.held() > 0);
        proxy.cut_hosts();
        Self { _dir: dir, path, target, segment, proxy, host, write }
    }

    /// Another write; then the first one comes, and has undone nothing.
    fn comes_too_late(&self, host: &Host) {
        host.write(FILE, 0, &[0xBB; 4096]).unwrap();
        // The I/O queue is first: where the target still has it, the end of the admin queue would end it unread.
        self.proxy.thaw_connection(1);
        eventually("the old I/O queue has ended", || self.target.status().connections <= 3);
        self.proxy.thaw();
        let have_ended = || self.proxy.held() == 0 && self.target.status().connections == 2;
        eventually("the old connections have ended", have_ended);
        assert!(std::fs::read(&self.path).unwrap()[..4096] == [0xBB; 4096]);
        assert!(host.read(FILE, 0, 4096).unwrap() == [0xBB; 4096]);
    }
}

/// With its next connections the host waits until the target has given the old ones up, too.
#[test]
fn p08_a_write_that_was_stuck_on_its_way_undoes_nothing_that_came_later() {
    let stuck = Stuck::new();
    // It is sent again.
    stuck.host.ends.wait(stuck.write).unwrap();
    stuck.comes_too_late(&stuck.host);
}

/// So it does when it lets go of the target, and attaches to it again.
#[test]
fn p08_a_write_that_was_stuck_on_its_way_undoes_nothing_that_came_after_attaching_anew() {
    let stuck = Stuck::new();
    stuck.host.segment.close(Instant::now());
    assert_eq!(stuck.host.ends.wait(stuck.write).unwrap_err().state, TransferState::Canceled);
    stuck.comes_too_late(&Host::with(Arc::clone(&stuck.host.transport), &stuck.segment));
}

/// What is under way is waited for only as long as its target is there.
#[test]
fn p01_closing_does_not_wait_for_a_target_that_is_gone() {
    let dir = temp_dir();
    let path = make_file(dir.path(), "file", &pattern(1 << 20, 1));
    for is_found_while_closing in [false, true] {
        let (target, mut segment) = target(&path, UserspaceOptions::default());
        let proxy = Proxy::to(target.address().socket_addr());
        redirect(&mut segment, proxy.address);
        let host = Host::attach(NvmeofOptions::new().workers(2).keep_alive(Duration::from_secs(1)), &segment);
        host.read(FILE, 0, 4096).unwrap();
        proxy.freeze();
        let memory = RegisteredMemory::allocate(65_536);
        let hour = Instant::now() + Duration::from_secs(3600);
        let request = host.start(&Transfer::read(FILE, 0).by(hour), &memory, 0..65_536);
        if !is_found_while_closing {
            eventually("the host knows", || {
                matches!(host.transport.status().attachments[0].state, ConnectionState::Reconnecting(_))
            });
        }
        let before = Instant::now();
        host.segment.close(hour);
        assert!(before.elapsed() < common::PATIENCE, "{:?}", before.elapsed());
        assert_eq!(host.ends.wait(request).unwrap_err().state, TransferState::Canceled);
        assert!(!memory.is_leased());
    }
}

/// A silent target may be asked to shut its controller down; nobody waits for the answer for long.
#[test]
fn p01_closing_waits_for_a_silent_target_only_as_long_as_politeness_asks() {
    let dir = temp_dir();
    let path = make_file(dir.path(), "file", &pattern(1 << 20, 1));
    let (target, mut segment) = target(&path, UserspaceOptions::default());
    let proxy = Proxy::to(target.address().socket_addr());
    redirect(&mut segment, proxy.address);
    let host = Host::attach(NvmeofOptions::new(), &segment);
    host.read(FILE, 0, 4096).unwrap();
    proxy.freeze();
    let before = Instant::now();
    host.segment.close(Instant::now() + Duration::from_secs(3600));
    assert!(before.elapsed() < common::PATIENCE, "{:?}", before.elapsed());
}

/// A port where connections are taken and closed at once: the waits between tries double.
#[test]
fn p08_a_target_that_refuses_is_not_hammered() {
    let dir = temp_dir();
    let path = make_file(dir.path(), "file", &pattern(1 << 20, 1));
    let node = Node::serving("node", &[&path]);
    let mut segment = node.describe();
    let port: u16 = segment.extra["nvmeof_generic_trid"]["trsvcid"].as_str().unwrap().parse().unwrap();
    let proxy = Proxy::to(([127, 0, 0, 1], port).into());
    redirect(&mut segment, proxy.address);
    let host = Host::attach(NvmeofOptions::new().workers(1), &segment);
    host.read(FILE, 0, 4096).unwrap();
    node.transport.uninstall(soon());
    drop(node);
    proxy.cut();
    let before = proxy.accepted();
    let memory = RegisteredMemory::allocate(4096);
    let end = Instant::now() + Duration::from_secs(3);
    let request = host.start(&Transfer::read(FILE, 0).by(end), &memory, 0..4096);
    host.ends.wait(request).unwrap_err();
    // After 0.1, 0.3, 0.7, 1.5 and 3.1 s, and once at once for each queue.
    let tries = proxy.accepted() - before;
    assert!((2..=8).contains(&tries), "{tries} tries in 3 s");
    // It is still looked for.
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    listener.accept().unwrap();
}
