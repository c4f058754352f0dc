//! P13: a host and a target that hold secrets for each other, over real sockets.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Host, Node, install, make_file, pattern, soon, temp_dir};
use nvferry_auth::{AuthHash, DhGroup, Secret};
use nvferry_engine::{FileBufferId, SegmentDesc, Transport};
use nvferry_nvmeof::NvmeofOptions;
use nvferry_target::{AllowedHost, AllowedHosts, HostAuth};
use nvferry_wire::Nqn;
use std::path::Path;

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
    let node = node(&path, Some(auth.clone()));
    let segment = node.describe();
    let none = refused(host(), &segment);
    assert!(none.contains("wants authentication and no secret is set"), "{none}");
    let other = Secret::generate(None).unwrap();
    let wrong = refused(host().secret(other.clone()), &segment);
    assert!(wrong.contains("refuses this host's secret"), "{wrong}");
    let impostor = refused(host().secret(auth.secret.clone()).controller_secret(other), &segment);
    assert!(impostor.contains("the target did not prove itself"), "{impostor}");
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
