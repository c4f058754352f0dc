//! Whole engines that find each other through etcd, while nodes die and etcd does.

use crate::common::{self, Factory, Script, eventually, secs};
use crate::server::Etcd;
use crate::store::Counting;
use nvferry_engine::{Deadline, FileBufferId, MetadataStore, SegmentDesc, TransferEngine};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SEGMENT: &str = "mooncake/ram/127.0.0.1:8081";
const NAME: &str = "mooncake/rpc_meta/127.0.0.1:8081";
/// The shortest that etcd grants here.
const TTL: Duration = Duration::from_secs(1);

fn engine(script: &Arc<Script>, address: &str, name: &str) -> TransferEngine {
    let engine = TransferEngine::builder()
        .metadata(address)
        .server_name(name)
        .cluster_id(None)
        .metadata_ttl(TTL)
        .transport(Factory(Arc::clone(script)))
        .build()
        .unwrap();
    engine.install_transport("scripted", "here").unwrap();
    engine
}

fn is_there(etcd: &Etcd) -> bool {
    let store = etcd.store();
    [SEGMENT, NAME].iter().all(|key| store.get(key, secs(10)).unwrap().is_some())
}

fn is_gone(etcd: &Etcd) -> bool {
    let store = etcd.store();
    [SEGMENT, NAME].iter().all(|key| store.get(key, secs(10)).unwrap().is_none())
}

/// Not a test of its own: the node that `a_killed_node…` starts and kills.
#[test]
fn node_process() {
    let Ok(address) = std::env::var("NVFERRY_TEST_NODE") else { return };
    let engine = engine(&Script::new(), &address, common::NAME);
    engine.register_local_file("/data/a.seg", 1 << 20).unwrap();
    println!("published");
    std::thread::sleep(Duration::from_secs(60));
}

struct Node(Child);

impl Node {
    fn start(etcd: &Etcd) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "engines::node_process", "--nocapture"])
            .env("NVFERRY_TEST_NODE", etcd.address())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let node = Self(child);
        assert!(lines.map_while(Result::ok).any(|line| line.contains("published")), "the node did not publish");
        node
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn segments_are_published_found_kept_fresh_and_withdrawn() {
    let Some(etcd) = Etcd::start() else { return };
    let script = Script::new();
    let target = engine(&script, &etcd.address(), common::NAME);
    // As the original writes it.
    let host = engine(&script, &etcd.endpoint(), "127.0.0.1:8082");
    let error = host.open_segment(common::NAME).unwrap_err().to_string();
    assert!(error.contains("no such segment") && error.contains(&etcd.address()), "{error}");
    target.register_local_file("/data/a.seg", 4096).unwrap();
    let text = etcd.store().get(SEGMENT, secs(10)).unwrap().unwrap().text;
    assert_eq!(SegmentDesc::from_json(&text).unwrap().file_buffers.len(), 1);
    assert_eq!(text, target.own_segment().unwrap().to_json());
    let meta = etcd.store().get(NAME, secs(10)).unwrap().unwrap().text;
    assert_eq!(meta, r#"{"ip_or_host_name":"127.0.0.1","rpc_port":8081}"#);
    let segment = host.open_segment(common::NAME).unwrap();
    let files = || host.segment_desc(segment).unwrap().file_buffers.len();
    assert_eq!(files(), 1);
    target.register_local_file("/data/b.seg", 4096).unwrap();
    eventually("the new file is seen without being asked for", || files() == 2);
    drop(target);
    assert!(is_gone(&etcd));
}

#[test]
fn a_killed_nodes_segment_goes_and_a_restarted_node_takes_its_name_back() {
    let Some(etcd) = Etcd::start() else { return };
    let mut node = Node::start(&etcd);
    let store = etcd.store();
    let known = store.get(SEGMENT, secs(10)).unwrap().unwrap().version;
    let watch = Counting::new(&store, SEGMENT, known);
    // It lives for longer than its lease.
    let started = Instant::now();
    while started.elapsed() < TTL * 2 {
        assert!(is_there(&etcd));
        std::thread::sleep(Duration::from_millis(50));
    }
    node.kill();
    eventually("what a dead node published goes", || is_gone(&etcd));
    watch.sees_more_than(0);

    let mut node = Node::start(&etcd);
    node.kill();
    // At once: the dead one's lease still holds the name.
    assert!(is_there(&etcd));
    let engine = engine(&Script::new(), &etcd.address(), common::NAME);
    assert_eq!(engine.register_local_file("/data/a.seg", 1 << 20).unwrap(), FileBufferId(1));
    let started = Instant::now();
    while started.elapsed() < TTL * 3 {
        assert!(is_there(&etcd), "it went with the dead one's lease");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_etcd_lost_while_it_was_away_for_longer_than_a_lease_is_published_again() {
    let Some(mut etcd) = Etcd::start() else { return };
    let script = Script::new();
    let target = engine(&script, &etcd.address(), common::NAME);
    target.register_local_file("/data/a.seg", 4096).unwrap();
    let host = engine(&script, &etcd.address(), "127.0.0.1:8082");
    let segment = host.open_segment(common::NAME).unwrap();
    for is_lost in [false, true] {
        etcd.kill();
        if is_lost {
            etcd.lose_data();
        }
        let stopped = Instant::now();
        // Calls end by their deadline meanwhile.
        let asked = Instant::now();
        assert!(host.open_segment_by("127.0.0.1:9", Deadline::after(Duration::from_secs(2))).is_err());
        assert!(asked.elapsed() < Duration::from_secs(4));
        std::thread::sleep((TTL * 3).saturating_sub(stopped.elapsed()));
        etcd.run();
        eventually("it is published again", || is_there(&etcd));
    }
    // Open segments are kept fresh again, also where etcd counts its revisions anew.
    target.register_local_file("/data/b.seg", 4096).unwrap();
    eventually("the new file is seen", || host.segment_desc(segment).unwrap().file_buffers.len() == 2);
}

#[test]
fn watches_survive_a_restart() {
    let Some(mut etcd) = Etcd::start() else { return };
    let store = etcd.store();
    store.put(SEGMENT, "1", None, secs(10)).unwrap();
    let known = store.get(SEGMENT, secs(10)).unwrap().unwrap().version;
    let watch = Counting::new(&store, SEGMENT, known);
    etcd.kill();
    etcd.run();
    store.put(SEGMENT, "2", None, secs(10)).unwrap();
    watch.sees_more_than(0);
    let seen = watch.seen();
    store.put(SEGMENT, "3", None, secs(10)).unwrap();
    watch.sees_more_than(seen);
}
