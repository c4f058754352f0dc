//! What goes wrong is counted where it went wrong: hosts that are refused, damage on the wire, retries, reconnects.

#![allow(clippy::unwrap_used)]

mod common;

use common::{PATIENCE, Scrape, parse, until};
use nvferry_engine::keys::Keys;
use nvferry_engine::metadata::MetadataSource;
use nvferry_engine::{Deadline, FileBufferId, Request, SegmentId, TransferEngine};
use nvferry_nvmeof::{NvmeofFactory, NvmeofOptions, PROTOCOL, factory};
use nvferry_observe::Observer;
use nvferry_target::{AllowedHost, AllowedHosts};
use nvferry_wire::pdu::Digests;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const FILE: FileBufferId = FileBufferId(1);
const HOST: &str = "nqn.2020-01.org.example:faulted";

/// Passes bytes on between hosts and a target, and does to them what it is told.
#[derive(Clone, Default)]
struct Between {
    /// A bit is flipped in each so many bytes towards the host, and towards the target; 0 for none.
    damage_every: [Arc<AtomicU64>; 2],
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Between {
    fn start(&self, target: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let between = self.clone();
        // It ends with the process.
        std::thread::spawn(move || {
            for host in listener.incoming().flatten() {
                let Ok(target) = TcpStream::connect(target) else { continue };
                between.streams.lock().unwrap().extend([host.try_clone().unwrap(), target.try_clone().unwrap()]);
                let (host_again, target_again) = (host.try_clone().unwrap(), target.try_clone().unwrap());
                between.pass(target, host, 0);
                between.pass(host_again, target_again, 1);
            }
        });
        address
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, way: usize) {
        let damage_every = Arc::clone(&self.damage_every[way]);
        std::thread::spawn(move || {
            let (mut buffer, mut passed) = (vec![0; 16 << 10], 0);
            while let Ok(len @ 1..) = from.read(&mut buffer) {
                let every = damage_every.load(Ordering::Relaxed);
                passed += len as u64;
                if every > 0 && passed >= every {
                    passed = 0;
                    buffer[len / 2] ^= 4;
                }
                if to.write_all(&buffer[..len]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
    }

    fn cut(&self) {
        self.streams.lock().unwrap().drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }
}

struct Pair {
    target: Observer,
    host: Observer,
    host_engine: TransferEngine,
    between: Between,
    _target_engine: TransferEngine,
    _dir: tempfile::TempDir,
}

fn engine(metadata: &str, name: &str, transports: &NvmeofFactory, text: &str) -> TransferEngine {
    let engine = TransferEngine::builder().metadata(metadata).server_name(name).transport(transports.clone());
    let engine = engine.build().unwrap();
    engine.install_transport(PROTOCOL, text).unwrap();
    engine
}

impl Pair {
    /// A target `direct`, and the way to it through a proxy, `proxied`.
    fn new(metadata: &str, allowed: AllowedHosts) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, vec![5; 1 << 20]).unwrap();
        let transports = factory(NvmeofOptions::new().direct(false).allowed_hosts(allowed));
        let target_engine = engine(metadata, "direct", &transports, "traddr=127.0.0.1 trsvcid=0");
        target_engine.register_local_file(&path, 1 << 20).unwrap();
        let target = Observer::new(transports);
        let between = Between::default();
        let mut segment = target_engine.own_segment().unwrap();
        let trid = segment.extra.get_mut("nvmeof_generic_trid").unwrap();
        let port: u16 = trid["trsvcid"].as_str().unwrap().parse().unwrap();
        let proxy = between.start(SocketAddr::from(([127, 0, 0, 1], port)));
        trid["trsvcid"] = proxy.port().to_string().into();
        segment.name = "proxied".into();
        let store = MetadataSource::from(metadata).open().unwrap();
        store.put(&Keys::new(None).segment("proxied"), &segment.to_json(), None, Deadline::after(PATIENCE)).unwrap();
        let options = NvmeofOptions::new().workers(1).digests(Digests::BOTH).host_nqn(HOST.parse().unwrap());
        let transports = factory(options);
        let host_engine = engine(metadata, "host", &transports, "");
        let host = Observer::new(transports);
        Self { target, host, host_engine, between, _target_engine: target_engine, _dir: dir }
    }

    fn of_target(&self) -> Scrape {
        parse(&self.target.metrics())
    }

    fn of_host(&self) -> Scrape {
        parse(&self.host.metrics())
    }

    fn transfer(&self, segment: SegmentId, write: bool) {
        let memory = self.host_engine.register_memory(vec![5; 65536]).unwrap();
        let batch = self.host_engine.batch(1).unwrap();
        let request = match write {
            true => Request::write(&memory, 0..65536, segment, FILE, 0),
            false => Request::read(&memory, 0..65536, segment, FILE, 0),
        };
        batch.submit(&[request]).unwrap();
        // Damage that comes again and again may fail it; here it is about what is counted.
        let _ = batch.wait(Deadline::after(PATIENCE));
    }
}

#[test]
fn a_refused_host_is_counted() {
    let other = AllowedHost { nqn: "nqn.2020-01.org.example:other".parse().unwrap(), auth: None };
    let pair = Pair::new("memory:refused", AllowedHosts::Only(vec![other]));
    assert_eq!(pair.of_target().value("nvferry_target_refused_hosts_total", &[]), 0.0);
    let refused = pair.host_engine.open_segment("direct").unwrap_err().to_string();
    assert!(refused.contains("Connect Invalid Host"), "{refused}");
    let now = pair.of_target();
    assert!(now.value("nvferry_target_refused_hosts_total", &[]) >= 1.0);
    assert_eq!(now.value("nvferry_target_created_controllers_total", &[]), 0.0);
    let page = pair.target.page();
    assert!(page.targets[0].hosts.as_ref().unwrap().is_empty() && page.targets[0].faults.unwrap().refused_hosts >= 1);
}

#[test]
fn p15_damage_is_counted_on_the_side_that_finds_it_and_what_was_tried_again_too() {
    let pair = Pair::new("memory:damaged", AllowedHosts::Any);
    let segment = pair.host_engine.open_segment("proxied").unwrap();
    pair.transfer(segment, false);
    assert_eq!(pair.of_host().sum("nvferry_host_digest_errors_total", &[]), 0.0);
    for (way, write) in [(0, false), (1, true)] {
        pair.between.damage_every[way].store(300_000, Ordering::Relaxed);
        until("damage to be found", || {
            pair.transfer(segment, write);
            match way {
                0 => pair.of_host().sum("nvferry_host_digest_errors_total", &[]) > 0.0,
                _ => pair.of_target().value("nvferry_target_digest_errors_total", &[]) > 0.0,
            }
        });
        pair.between.damage_every[way].store(0, Ordering::Relaxed);
    }
    until("a retry", || pair.of_host().sum("nvferry_host_retries_total", &[]) > 0.0);
}

#[test]
fn p08_a_reconnect_is_counted_on_both_sides_and_nothing_falls() {
    let pair = Pair::new("memory:cut", AllowedHosts::Any);
    let segment = pair.host_engine.open_segment("proxied").unwrap();
    pair.transfer(segment, false);
    let before = (pair.of_target(), pair.of_host());
    let before_cut = before.0.value("nvferry_target_read_bytes_total", &[]);
    pair.between.cut();
    until("the reconnect", || pair.of_host().sum("nvferry_host_reconnects_total", &[]) == 1.0);
    pair.transfer(segment, false);
    until("the host's figures", || pair.of_host().sum("nvferry_host_read_bytes_total", &[]) == 131_072.0);
    let now = (pair.of_target(), pair.of_host());
    now.0.must_not_fall(&before.0);
    now.1.must_not_fall(&before.1);
    assert_eq!(now.0.value("nvferry_target_created_controllers_total", &[]), 2.0);
    assert_eq!(now.0.value("nvferry_target_host_connects_total", &[("host", HOST)]), 2.0);
    assert_eq!(now.0.value("nvferry_target_read_bytes_total", &[]), before_cut + 65536.0);
    assert!(now.1.sum("nvferry_host_queue_disconnects_total", &[]) >= 1.0);
    assert_eq!(now.1.sum("nvferry_host_connected", &[]), 1.0);
}
