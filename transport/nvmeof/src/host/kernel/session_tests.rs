//! Whole attachments over made-up kernels: controllers that a test makes in a fake sysfs, files that stand for devices.

use super::fabrics::Fabrics;
use super::session::KernelTarget;
use super::sysfs_tests::Tree;
use crate::attachment::{Attachment, AttachmentId, View};
use crate::config::{Environment, HostDriver, NvmeofOptions, Settings};
use crate::host::userspace::control::Control;
use crate::remote::{KernelPlan, Remote};
use crate::status::{ConnectionState, DriverChoice};
use crate::testing::Outcomes;
use crate::testing::rig::memory;
use crate::trid;
use crate::worker::WorkerPool;
use nvferry_auth::Secret;
use nvferry_engine::error::ErrorKind;
use nvferry_engine::{
    EngineError, FileBufferDesc, FileBufferId, Operation, RemoteSegment, SegmentDesc, Slice, SliceSink,
};
use nvferry_io::RegisteredMemory;
use nvferry_libnvme_sys::{ConnectError, ConnectRequest};
use nvferry_wire::TransportId;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
const SIZE: u64 = 64 << 10;

type Script = Box<dyn FnMut(&Tree, &ConnectRequest, usize) -> Result<String, ConnectError> + Send>;

/// Connects as a test says.
struct Scripted {
    tree: Arc<Tree>,
    state: Mutex<(Script, usize)>,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl Fabrics for Scripted {
    fn connect(&self, request: &ConnectRequest) -> Result<String, ConnectError> {
        let (script, calls) = &mut *self.state.lock();
        *calls += 1;
        script(&self.tree, request, *calls)
    }
}

/// Makes a controller that the request describes.
fn appear(tree: &Tree, name: &str, request: &ConnectRequest) -> String {
    let address = format!("traddr={},trsvcid={},src_addr=127.0.0.1", request.traddr, request.trsvcid);
    tree.controller(name, &request.subsysnqn, &address);
    tree.write(&format!("sys/class/nvme/{name}/hostnqn"), &request.hostnqn);
    tree.write(&format!("sys/class/nvme/{name}/hostid"), &request.hostid);
    name.to_owned()
}

struct Bench {
    tree: Arc<Tree>,
    fabrics: Arc<Scripted>,
    pool: Arc<WorkerPool>,
    _control: Control,
    segment: SegmentDesc,
}

impl Bench {
    /// A segment of its own name, so that tests share no connection, with these files.
    fn new(name: &str, files: &[u32], script: Script) -> Self {
        let tree = Arc::new(Tree::new());
        tree.write("dev/nvme-fabrics", "");
        let control = Control::start().unwrap();
        let pool = WorkerPool::start(2, Duration::ZERO, control.handle()).unwrap();
        let mut segment = SegmentDesc::new(name, crate::PROTOCOL);
        let text = format!("trtype=tcp traddr=127.0.0.1 trsvcid=4420 subnqn=nqn.2016-06.io.mc:{name}");
        let trid: TransportId = text.parse().unwrap();
        trid::describe(&mut segment, &trid);
        let mut bench = Self {
            fabrics: Arc::new(Scripted { tree: Arc::clone(&tree), state: Mutex::new((script, 0)) }),
            tree,
            pool,
            _control: control,
            segment,
        };
        files.iter().for_each(|&id| bench.describe(id));
        bench
    }

    fn describe(&mut self, id: u32) {
        let path = format!("/data/{id}");
        self.segment.file_buffers.push(FileBufferDesc::new(FileBufferId(id), path, SIZE, 0));
    }

    fn calls(&self) -> usize {
        self.fabrics.state.lock().1
    }

    fn attach(&self, patience: Duration) -> Result<Remote, EngineError> {
        self.attach_with(NvmeofOptions::new(), patience)
    }

    fn attach_with(&self, options: NvmeofOptions, patience: Duration) -> Result<Remote, EngineError> {
        let settings = Settings::resolve(options.direct(false), None, &Environment::default(), "host").unwrap();
        let plan = KernelPlan::new(&settings, 2);
        let request = plan.request(&self.segment)?;
        let view = View { table: Arc::default(), max_transfer_bytes: u32::MAX, queues: 2 };
        let driver = DriverChoice { driver: HostDriver::Kernel, why: "a test" };
        let attachment = Arc::new(Attachment::new(AttachmentId(0), "fake".into(), driver, view, 2));
        let fabrics = Arc::clone(&self.fabrics) as Arc<dyn Fabrics>;
        let target = KernelTarget { sysfs: self.tree.sysfs(), fabrics, request, direct: false };
        let deadline = Instant::now() + patience;
        Remote::attach_kernel(attachment, Arc::clone(&self.pool), plan, target, &self.segment, deadline)
    }

    fn was_disconnected(&self, controller: &str) -> bool {
        let path = self.tree.path(&format!("sys/class/nvme/{controller}/delete_controller"));
        std::fs::read_to_string(path).is_ok_and(|text| text == "1")
    }
}

fn submit(
    remote: &Remote,
    outcomes: &Arc<Outcomes>,
    op: Operation,
    file: u32,
    memory: &RegisteredMemory,
    by: Duration,
) {
    let lease = memory.lease(0..memory.len()).unwrap();
    let sink = Arc::clone(outcomes) as Arc<dyn SliceSink>;
    let slice = Slice::new(op, FileBufferId(file), 512, lease, Instant::now() + by, sink, 0);
    remote.submit(&mut vec![slice]);
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Moves a range and returns how that ended.
fn move_one(
    remote: &Remote,
    op: Operation,
    file: u32,
    memory: &RegisteredMemory,
) -> Result<(), nvferry_engine::Failure> {
    let outcomes = Outcomes::new();
    submit(remote, &outcomes, op, file, memory, PATIENCE);
    until("the request's end", || !outcomes.ended().is_empty());
    outcomes.ended()[0].1.clone()
}

fn with_namespaces(name: &'static str, nsids: &'static [u32]) -> Script {
    Box::new(move |tree, request, _| {
        let name = appear(tree, name, request);
        for (i, &nsid) in nsids.iter().enumerate() {
            let at = i + 1;
            tree.namespace(&name, &format!("nvme0c0n{at}"), nsid, &format!("nvme0n{at}"), SIZE);
        }
        Ok(name)
    })
}

#[test]
fn files_are_reached_by_nsid_and_what_was_made_is_removed() {
    // The device numbers are not the ids.
    let bench = Bench::new("by-nsid", &[3, 8], with_namespaces("nvme0", &[8, 3]));
    let remote = bench.attach(PATIENCE).unwrap();
    let bytes: Vec<u8> = (0..5000).map(|i| (i % 251) as u8).collect();
    move_one(&remote, Operation::Write, 3, &RegisteredMemory::from(bytes.clone())).unwrap();
    let device = std::fs::read(bench.tree.path("dev/nvme0n2")).unwrap();
    assert!(device[512..5512] == bytes[..], "nsid 3 is the second device");
    assert!(std::fs::read(bench.tree.path("dev/nvme0n1")).unwrap().iter().all(|&byte| byte == 0));
    let back = memory(5000);
    move_one(&remote, Operation::Read, 3, &back).unwrap();
    assert!(back.lease(0..5000).unwrap().to_vec() == bytes);
    assert_eq!(remote.attachment().status().state, ConnectionState::Connected);
    assert!(!bench.was_disconnected("nvme0"));
    remote.close(Instant::now() + PATIENCE);
    assert!(bench.was_disconnected("nvme0"), "what was made is removed");
}

#[test]
fn a_connection_that_is_there_is_used_and_left() {
    let bench = Bench::new("reused", &[1], Box::new(|_, _, _| panic!("there is a connection")));
    let settings = Settings::resolve(NvmeofOptions::new(), None, &Environment::default(), "host").unwrap();
    let request = KernelPlan::new(&settings, 2).request(&bench.segment).unwrap();
    // Others like it, each different in one thing.
    for (name, change) in [("nvme1", "hostnqn"), ("nvme2", "hostid"), ("nvme3", "subsysnqn"), ("nvme4", "transport")] {
        appear(&bench.tree, name, &request);
        bench.tree.write(&format!("sys/class/nvme/{name}/{change}"), "another");
    }
    appear(&bench.tree, "nvme6", &request);
    bench.tree.namespace("nvme6", "nvme6c6n1", 1, "nvme6n1", SIZE);
    let remote = bench.attach(PATIENCE).unwrap();
    move_one(&remote, Operation::Read, 1, &memory(4096)).unwrap();
    remote.close(Instant::now() + PATIENCE);
    assert!((1..=6).all(|i| !bench.was_disconnected(&format!("nvme{i}"))));
}

#[test]
fn attachments_share_a_connection_and_the_last_one_removes_it() {
    let bench = Bench::new("shared", &[1], with_namespaces("nvme0", &[1]));
    let first = bench.attach(PATIENCE).unwrap();
    let second = bench.attach(PATIENCE).unwrap();
    assert_eq!(bench.calls(), 1);
    first.close(Instant::now() + PATIENCE);
    assert!(!bench.was_disconnected("nvme0"), "the second still uses it");
    second.close(Instant::now() + PATIENCE);
    assert!(bench.was_disconnected("nvme0"));
}

fn mode(bench: &Bench, attribute: &str) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    let path = bench.tree.path(&format!("sys/class/nvme/nvme0/{attribute}"));
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn p13_a_target_that_does_not_prove_itself_to_the_kernel_is_not_used() {
    let secrets = [Secret::generate(None).unwrap(), Secret::generate(None).unwrap()];
    let options = || NvmeofOptions::new().secret(secrets[0].clone()).controller_secret(secrets[1].clone());
    let given = secrets.clone();
    let connects = move |says: &'static str| -> Script {
        let (given, mut connects) = (given.clone(), with_namespaces("nvme0", &[1]));
        Box::new(move |tree, request, call| {
            assert_eq!(request.secret.as_ref(), Some(&given[0]));
            let name = connects(tree, request, call);
            // As the kernel does.
            for (attribute, secret) in
                [("dhchap_secret", &request.secret), ("dhchap_ctrl_secret", &request.controller_secret)]
            {
                let text = secret.as_ref().map_or("none".to_owned(), |secret| secret.expose().to_string());
                tree.write(&format!("sys/class/nvme/nvme0/{attribute}"), &format!("{text}\n"));
            }
            tree.append("dev/kmsg", &format!("6,9,9,-;{says}\n SUBSYSTEM=nvme\n6,10,9,-;nvme nvme0: new ctrl\n"));
            name
        })
    };
    let others = "nvme nvme7: qid 0: controller authenticated";
    for says in ["nvme nvme0: qid 0: authenticated", others] {
        let bench = Bench::new("unproved", &[1], connects(says));
        bench.tree.write("dev/kmsg", "6,1,1,-;nvme nvme0: qid 0: controller authenticated\n");
        let error = bench.attach_with(options(), PATIENCE).unwrap_err();
        assert_eq!((error.kind(), bench.calls()), (ErrorKind::RejectHandshake, 1));
        assert!(error.to_string().contains("does not say that the target has proved itself"), "{error}");
        assert!(bench.was_disconnected("nvme0"));
    }
    let bench = Bench::new("proved", &[1], connects("nvme nvme0: qid 0: controller authenticated"));
    bench.tree.write("dev/kmsg", "");
    let remote = bench.attach_with(options(), PATIENCE).unwrap();
    move_one(&remote, Operation::Read, 1, &memory(4096)).unwrap();
    assert_eq!([mode(&bench, "dhchap_secret"), mode(&bench, "dhchap_ctrl_secret")], [0o600; 2]);
    // Who does not ask for a proof may share it, and who asks for the same.
    bench.attach_with(options(), PATIENCE).unwrap();
    bench.attach_with(NvmeofOptions::new().secret(secrets[0].clone()), PATIENCE).unwrap();
    assert_eq!(bench.calls(), 1);
    let other = options().controller_secret(Secret::generate(None).unwrap());
    let error = bench.attach_with(other, PATIENCE).unwrap_err();
    assert!(error.to_string().contains("nvme disconnect -d nvme0"), "{error}");
    assert!(!bench.was_disconnected("nvme0"));
}

#[test]
fn what_cannot_help_fails_at_once_and_what_may_pass_is_tried_again() {
    let no_root = ConnectError { number: 13, words: "Permission denied".into() };
    let bench = Bench::new("no-root", &[1], Box::new(move |_, _, _| Err(no_root.clone())));
    let error = bench.attach(PATIENCE).unwrap_err();
    assert_eq!((error.kind(), bench.calls()), (ErrorKind::Context, 1));
    assert!(error.to_string().contains("needs root"), "{error}");

    let mut connects = with_namespaces("nvme0", &[1]);
    let script: Script = Box::new(move |tree, request, call| match call {
        1..=2 => Err(ConnectError { number: 1017, words: "connection refused".into() }),
        _ => connects(tree, request, call),
    });
    let bench = Bench::new("refused-first", &[1], script);
    bench.attach(PATIENCE).unwrap();
    assert_eq!(bench.calls(), 3);

    let refuses = |_: &Tree, _: &ConnectRequest, _| Err(ConnectError { number: 1017, words: "refused".into() });
    let bench = Bench::new("refused", &[1], Box::new(refuses));
    let error = bench.attach(Duration::from_millis(200)).unwrap_err().to_string();
    assert!(error.contains("nobody listens there"), "the reason, not only that time is over: {error}");
}

#[test]
fn p12_a_device_that_cannot_come_is_given_up_in_time_with_the_reason() {
    let bench = Bench::new("no-device", &[1], Box::new(|tree, request, _| Ok(appear(tree, "nvme0", request))));
    let error = bench.attach(Duration::from_millis(500)).unwrap_err().to_string();
    assert!(error.contains("file 1 does not come: the kernel shows no namespace of nvme0"), "{error}");
    assert!(bench.was_disconnected("nvme0"), "given up, so it is not kept");
    let rescan = bench.tree.path("sys/class/nvme/nvme0/rescan_controller");
    assert_eq!(std::fs::read_to_string(rescan).unwrap(), "1", "the kernel was told to look");
}

#[test]
fn a_connect_that_ends_after_its_caller_gave_up_is_removed_again() {
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let mut connects = with_namespaces("nvme0", &[1]);
    let script: Script = Box::new(move |tree, request, call| {
        let _ = gate.recv_timeout(PATIENCE);
        connects(tree, request, call)
    });
    let bench = Bench::new("late", &[1], script);
    let began = Instant::now();
    bench.attach(Duration::from_millis(100)).unwrap_err();
    assert!(began.elapsed() < PATIENCE / 2, "the kernel blocks, the caller does not");
    go.send(()).unwrap();
    until("the disconnect", || bench.was_disconnected("nvme0"));
}

#[test]
fn p06_a_namespace_that_is_added_is_found() {
    let mut bench = Bench::new("added", &[1], with_namespaces("nvme0", &[1]));
    let remote = bench.attach(PATIENCE).unwrap();
    assert!(move_one(&remote, Operation::Read, 7, &memory(512)).is_err(), "nobody offers it");
    bench.tree.namespace("nvme0", "nvme0c0n2", 7, "nvme0n2", SIZE);
    bench.describe(7);
    remote.update(&bench.segment, Instant::now() + PATIENCE).unwrap();
    move_one(&remote, Operation::Write, 7, &memory(512)).unwrap();
    // And one that is withdrawn is refused.
    bench.segment.file_buffers.retain(|file| file.id != FileBufferId(7));
    remote.update(&bench.segment, Instant::now() + PATIENCE).unwrap();
    let failure = move_one(&remote, Operation::Read, 7, &memory(512)).unwrap_err();
    assert!(failure.message.contains("withdrawn"), "{failure:?}");
}

#[test]
fn p08_a_device_that_goes_is_awaited_and_opened_anew_under_its_new_name() {
    let script: Script = Box::new(|tree, request, call| {
        let name = appear(tree, &format!("nvme{call}"), request);
        tree.namespace(&name, &format!("nvme{call}c{call}n1"), 1, &format!("nvme{call}n1"), SIZE);
        Ok(name)
    });
    let bench = Bench::new("comes-back", &[1], script);
    let remote = bench.attach(PATIENCE).unwrap();
    // The kernel gives the controller up, and with it the device.
    bench.tree.remove("sys/block/nvme1n1");
    bench.tree.remove("sys/class/nvme/nvme1");
    bench.tree.remove("dev/nvme1n1");
    until("the reconnect", || remote.attachment().status().totals.reconnects == 1);
    assert_eq!(bench.calls(), 2);
    move_one(&remote, Operation::Write, 1, &RegisteredMemory::from(vec![7; 512])).unwrap();
    assert_eq!(std::fs::read(bench.tree.path("dev/nvme2n1")).unwrap()[512..1024], [7; 512]);
}

#[test]
fn p08_a_restarted_target_that_describes_its_files_one_by_one_loses_none() {
    let mut bench = Bench::new("one-by-one", &[1, 2], with_namespaces("nvme0", &[1, 2]));
    let remote = bench.attach(PATIENCE).unwrap();
    // It is gone, and the kernel reconnects; then it is back with one file of two, and the kernel removes the other.
    bench.tree.write("sys/class/nvme/nvme0/state", "connecting\n");
    until("the loss to be noticed", || remote.attachment().status().state != ConnectionState::Connected);
    bench.tree.write("sys/class/nvme/nvme0/state", "live\n");
    bench.tree.remove("sys/class/nvme/nvme0/nvme0c0n2");
    let second = bench.segment.file_buffers.pop().unwrap();
    remote.update(&bench.segment, Instant::now() + PATIENCE).unwrap();
    let outcomes = Outcomes::new();
    submit(&remote, &outcomes, Operation::Read, 2, &memory(512), PATIENCE);
    move_one(&remote, Operation::Read, 1, &memory(512)).unwrap();
    assert!(outcomes.ended().is_empty(), "it waits");
    bench.tree.namespace("nvme0", "nvme0c0n3", 2, "nvme0n3", SIZE);
    bench.segment.file_buffers.push(second);
    remote.update(&bench.segment, Instant::now() + PATIENCE).unwrap();
    until("the request's end", || !outcomes.ended().is_empty());
    assert_eq!(outcomes.ended()[0].1, Ok(()));
    assert_eq!(remote.attachment().status().totals.reconnects, 1);
}

#[test]
fn p08_a_device_that_comes_back_as_another_file_is_not_used_until_it_is_the_right_one_again() {
    let [right, wrong] = ["11111111-0000-8000-8000-000000000001", "22222222-0000-8000-8000-000000000002"];
    for described in [true, false] {
        let script: Script = Box::new(move |tree, request, call| {
            let name = appear(tree, &format!("nvme{call}"), request);
            tree.namespace(&name, &format!("nvme{call}c{call}n1"), 1, &format!("nvme{call}n1"), SIZE);
            // As the kernel shows it: the first and the third time it is the right one.
            tree.write(&format!("sys/block/nvme{call}n1/nguid"), if call == 2 { wrong } else { right });
            Ok(name)
        });
        let mut bench = Bench::new(&format!("another-file-{described}"), &[1], script);
        if described {
            bench.segment.file_buffers[0].identity = Some(right.to_owned());
        }
        let remote = bench.attach(PATIENCE).unwrap();
        move_one(&remote, Operation::Write, 1, &memory(512)).unwrap();
        for (call, is_right) in [(1, false), (2, true)] {
            // The kernel gives the controller up, and with it the device.
            bench.tree.remove(&format!("sys/block/nvme{call}n1"));
            bench.tree.remove(&format!("sys/class/nvme/nvme{call}"));
            bench.tree.remove(&format!("dev/nvme{call}n1"));
            until("the reconnect", || remote.attachment().status().totals.reconnects == call);
            let moved = move_one(&remote, Operation::Write, 1, &RegisteredMemory::from(vec![7; 512]));
            let now = std::fs::read(bench.tree.path(&format!("dev/nvme{}n1", call + 1))).unwrap();
            assert_eq!((moved.is_ok(), now[512] == 7), (is_right, is_right), "{moved:?}");
            if let Err(failure) = moved {
                for words in ["another file in its place", right, wrong] {
                    assert!(failure.message.contains(words), "{failure:?}");
                }
            }
        }
    }
}

#[test]
fn p08_a_device_that_is_not_the_file_that_is_described_is_refused_and_waited_for_by_nobody() {
    let script: Script = Box::new(|tree, request, _| {
        let name = appear(tree, "nvme0", request);
        tree.namespace(&name, "nvme0c0n1", 1, "nvme0n1", SIZE);
        tree.write("sys/block/nvme0n1/nguid", "22222222-0000-8000-8000-000000000002");
        Ok(name)
    });
    let mut bench = Bench::new("not-described", &[1], script);
    bench.segment.file_buffers[0].identity = Some("11111111-0000-8000-8000-000000000001".to_owned());
    let remote = bench.attach(PATIENCE).unwrap();
    let failure = move_one(&remote, Operation::Read, 1, &memory(512)).unwrap_err();
    assert!(failure.message.contains("another file in its place"), "{failure:?}");
    assert_eq!(remote.attachment().status().state, ConnectionState::Connected);
}

#[test]
fn p01_requests_for_a_device_that_stays_away_end_by_their_deadline() {
    let bench = Bench::new("away", &[1, 2], with_namespaces("nvme0", &[1, 2]));
    let remote = bench.attach(PATIENCE).unwrap();
    bench.tree.remove("sys/class/nvme/nvme0/nvme0c0n1");
    let is_awaited = || {
        let presence = |view: &View| view.table.get(FileBufferId(1)).map(|namespace| namespace.presence);
        remote.attachment().with_view(presence) == Some(crate::host::namespaces::Presence::Awaited)
    };
    until("the loss to be noticed", is_awaited);
    let outcomes = Outcomes::new();
    submit(&remote, &outcomes, Operation::Read, 1, &memory(512), Duration::from_millis(100));
    // Another file's request is not held up (P7).
    move_one(&remote, Operation::Read, 2, &memory(512)).unwrap();
    until("the request's end", || !outcomes.ended().is_empty());
    let failure = outcomes.ended()[0].1.clone().unwrap_err();
    assert_eq!(failure.state, nvferry_engine::TransferState::Timeout);
}

#[test]
fn p07_one_file_that_is_too_short_takes_no_other_with_it() {
    let script: Script = Box::new(|tree, request, _| {
        let name = appear(tree, "nvme0", request);
        tree.namespace(&name, "nvme0c0n1", 1, "nvme0n1", SIZE - 512);
        tree.namespace(&name, "nvme0c0n2", 2, "nvme0n2", SIZE);
        Ok(name)
    });
    let bench = Bench::new("short", &[1, 2], script);
    let remote = bench.attach(PATIENCE).unwrap();
    move_one(&remote, Operation::Read, 2, &memory(512)).unwrap();
    assert!(move_one(&remote, Operation::Read, 1, &memory(512)).is_err());
}
