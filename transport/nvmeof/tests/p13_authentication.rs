//! P13: a host and a target that hold secrets for each other, over real sockets.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Host, Node, Transfer, install, make_file, pattern, soon, temp_dir};
use nvferry_auth::{AuthHash, DhGroup, Secret};
use nvferry_engine::{FileBufferId, SegmentDesc, Transport};
use nvferry_io::RegisteredMemory;
use nvferry_nvmeof::{ConnectionState, NvmeofOptions};
use nvferry_target::{AllowedHost, AllowedHosts, HostAuth};
use nvferry_testing::Proxy;
use nvferry_wire::Nqn;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FILE: FileBufferId = FileBufferId(1);
const HOST: &str = "nqn.2020-01.org.example:host";

fn auth() -> HostAuth {
    let secret = Secret::generate(Some(AuthHash::Sha384)).unwrap();
    HostAuth { controller_secret: Some(Secret::generate(None).unwrap()), ..HostAuth::new(secret) }
}

fn node(path: &Path, auth: Option<HostAuth>) -> Node {
    let hosts = AllowedHosts::Only(vec![AllowedHost { nqn: Nqn::new(HOST).unwrap(), auth }]);
    let options = NvmeofOptions::new().allowed_hosts(hosts);
    let transport = install("node", options, Some("trtype=tcp traddr=127.0.0.1 trsvcid=0"));
    let mut node = Node { transport, name: "node".into(), files: vec![] };
    node.offer(path);
    node
}

fn host() -> NvmeofOptions {
    NvmeofOptions::new().host_nqn(Nqn::new(HOST).unwrap())
}

/// Why a host cannot attach.
fn refused(options: NvmeofOptions, segment: &SegmentDesc) -> String {
    let transport = install("host", options, None);
    let error = transport.attach(segment, soon()).err().unwrap().to_string();
    assert!(error.contains("cannot attach to "), "{error}");
    error
}

#[test]
fn p13_both_sides_prove_themselves_and_data_moves() {
    let dir = temp_dir();
    let before = pattern(1 << 20, 1);
    let path = make_file(dir.path(), "a", &before);
    for (hash, group) in AuthHash::ALL.into_iter().zip([DhGroup::Null, DhGroup::Ffdhe3072, DhGroup::Ffdhe4096]) {
        let auth = HostAuth { hash, group, ..auth() };
        let node = node(&path, Some(auth.clone()));
        for mutual in [false, true] {
            let mut options = host().secret(auth.secret.clone());
            if mutual {
                options = options.controller_secret(auth.controller_secret.clone().unwrap());
            }
            let host = Host::attach(options, &node.describe());
            assert_eq!(host.read(FILE, 0, 300_000).unwrap(), before[..300_000]);
        }
    }
}

#[test]
fn p13_what_is_wrong_is_said() {
    let dir = temp_dir();
    let path = make_file(dir.path(), "a", &pattern(65536, 1));
    let auth = auth();
    let proves_nothing = node(&path, Some(HostAuth { controller_secret: None, ..auth.clone() }));
    let node = node(&path, Some(auth.clone()));
    let segment = node.describe();
    let none = refused(host(), &segment);
    assert!(none.contains("wants authentication and no secret is set"), "{none}");
    let other = Secret::generate(None).unwrap();
    let wrong = refused(host().secret(other.clone()), &segment);
    assert!(wrong.contains("refuses this host's secret"), "{wrong}");
    let impostor = refused(host().secret(auth.secret.clone()).controller_secret(other), &segment);
    assert!(impostor.contains("the target did not prove itself"), "{impostor}");
    let insists = host().secret(auth.secret.clone()).controller_secret(auth.controller_secret.clone().unwrap());
    let unproved = refused(insists, &proves_nothing.describe());
    assert!(unproved.contains("has the target a secret of its own for this host"), "{unproved}");
    let stranger = refused(NvmeofOptions::new().secret(auth.secret.clone()), &segment);
    assert!(stranger.contains("not on the target's list"), "{stranger}");
    // The right ones still do.
    let host = Host::attach(host().secret(auth.secret), &segment);
    assert!(host.read(FILE, 0, 4096).is_ok());
}

#[test]
fn p13_a_target_that_proves_nothing_is_refused_by_a_host_that_insists() {
    let dir = temp_dir();
    let path = make_file(dir.path(), "a", &pattern(65536, 1));
    let auth = auth();
    let open = node(&path, None);
    // A secret alone is only for targets that ask.
    assert!(Host::attach(host().secret(auth.secret.clone()), &open.describe()).read(FILE, 0, 4096).is_ok());
    let both = host().secret(auth.secret.clone()).controller_secret(auth.controller_secret.unwrap());
    let error = refused(both, &open.describe());
    assert!(error.contains("the target did not prove itself: it authenticates nobody"), "{error}");
}

/// A node behind a proxy: it can be killed and started again, where hosts find it.
struct Restarting {
    node: Option<Node>,
    proxy: Proxy,
    path: PathBuf,
}

impl Restarting {
    fn start(path: &Path, auth: &HostAuth) -> (Self, SegmentDesc) {
        let node = node(path, Some(auth.clone()));
        let proxy = Proxy::to(address(&node));
        let mut segment = node.describe();
        let trid = segment.extra["nvmeof_generic_trid"].as_object_mut().unwrap();
        trid.insert("trsvcid".into(), proxy.address.port().to_string().into());
        (Self { node: Some(node), proxy, path: path.to_owned() }, segment)
    }

    fn kill(&mut self) {
        self.proxy.cut();
        let node = self.node.take().unwrap();
        node.transport.uninstall(soon());
    }

    fn start_again(&mut self, auth: &HostAuth) {
        let node = self.node.insert(node(&self.path, Some(auth.clone())));
        self.proxy.lead_to(address(node));
    }

    /// Connected hosts, and those that were refused.
    fn hosts(&self) -> (usize, u64) {
        let status = self.node.as_ref().unwrap().transport.target().unwrap().status();
        (status.controllers.unwrap().len(), status.faults.refused_hosts)
    }
}

fn address(node: &Node) -> std::net::SocketAddr {
    node.transport.target().unwrap().address().socket_addr()
}

/// Waits until the connection is away for a reason with these words.
fn until_away(host: &Host, words: &str) {
    let patience = soon();
    loop {
        let state = host.transport.status().attachments[0].state.clone();
        if matches!(&state, ConnectionState::Reconnecting(why) if why.contains(words)) {
            return;
        }
        assert!(Instant::now() < patience, "it is {state:?}");
        std::thread::yield_now();
    }
}

#[test]
fn p08_p13_a_host_proves_itself_anew_when_the_target_is_back() {
    let dir = temp_dir();
    let content = pattern(1 << 20, 1);
    let path = make_file(dir.path(), "a", &content);
    let auth = auth();
    let (mut target, segment) = Restarting::start(&path, &auth);
    let options = host().secret(auth.secret.clone()).controller_secret(auth.controller_secret.clone().unwrap());
    let host = Host::attach(options.workers(2), &segment);
    for round in 1..4 {
        assert_eq!(host.read(FILE, 0, 300_000).unwrap(), content[..300_000]);
        target.kill();
        // It waits for the target, and then for the proof.
        let memory = RegisteredMemory::allocate(4096);
        let request = host.start(&Transfer::read(FILE, 4096), &memory, 0..4096);
        target.start_again(&auth);
        host.ends.wait(request).unwrap();
        assert!(memory.lease(0..4096).unwrap().to_vec() == content[4096..8192]);
        assert_eq!(host.transport.status().attachments[0].totals.reconnects, round);
        assert_eq!(target.hosts(), (1, 0));
    }
}

#[test]
fn p13_a_secret_that_was_changed_meanwhile_is_said_and_the_right_one_mends_it() {
    let dir = temp_dir();
    let content = pattern(1 << 20, 1);
    let path = make_file(dir.path(), "a", &content);
    let ours = auth();
    let (mut target, segment) = Restarting::start(&path, &ours);
    let options = host().secret(ours.secret.clone()).controller_secret(ours.controller_secret.clone().unwrap());
    let host = Host::attach(options, &segment);
    let other_host = HostAuth { secret: auth().secret, ..ours.clone() };
    let other_target = HostAuth { controller_secret: auth().controller_secret, ..ours.clone() };
    for (auth, words) in [(&other_host, "refuses this host's secret"), (&other_target, "did not prove itself")] {
        assert!(host.read(FILE, 0, 4096).is_ok());
        target.kill();
        target.start_again(auth);
        until_away(&host, words);
        // The same is what a request hears that waits in vain.
        let memory = RegisteredMemory::allocate(4096);
        let deadline = Instant::now() + Duration::from_millis(300);
        let request = host.start(&Transfer::write(FILE, 0).by(deadline), &memory, 0..4096);
        let failure = host.ends.wait(request).unwrap_err();
        assert!(failure.message.contains(words), "{failure:?}");
        assert!(!memory.is_leased());
        // It may just be trying once more, so that there is a controller which has proved nothing.
        assert!(target.hosts().1 > 0, "the target counts it");
        // Nobody has to do anything at the host.
        target.kill();
        target.start_again(&ours);
        assert_eq!(host.read(FILE, 0, 4096).unwrap(), content[..4096], "nothing was written");
    }
}
