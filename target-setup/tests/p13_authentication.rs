//! P13: a host with a secret has to prove that it knows it, on every queue, before anything else.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::host::{HOST, Host, Way};
use common::{Running, buffered, make_file, pattern, spec};
use nvferry_auth::{AuthHash, DhGroup, HostExchange, HostTerms, Secret};
use nvferry_target::{AllowedHost, AllowedHosts, HostAuth, TargetDriver, UserspaceOptions, UserspaceTarget};
use nvferry_wire::auth::{AuthMessage, AuthSend, FailureReason};
use nvferry_wire::fabrics::{Property, PropertyGet};
use nvferry_wire::{ControllerId, Nqn, SglDescriptor, Status, StatusCode};
use std::net::TcpStream;

const FILE_BYTES: usize = 64 << 10;
const REQUIRED: Status = Status::permanent(StatusCode::AuthenticationRequired);

fn running(auth: HostAuth) -> Running {
    running_with(auth, UserspaceOptions::default())
}

fn running_with(auth: HostAuth, options: UserspaceOptions) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec();
    spec.namespaces.push(buffered(1, make_file(dir.path(), "one", 1, FILE_BYTES), FILE_BYTES as u64));
    spec.allowed_hosts = AllowedHosts::Only(vec![AllowedHost { nqn: Nqn::new(HOST).unwrap(), auth: Some(auth) }]);
    Running { target: UserspaceTarget::start(spec, options).unwrap(), dir }
}

fn auth(hash: AuthHash, group: DhGroup) -> HostAuth {
    let controller_secret = Some(Secret::generate(None).unwrap());
    HostAuth { controller_secret, hash, group, ..HostAuth::new(Secret::generate(Some(hash)).unwrap()) }
}

fn terms(auth: &HostAuth) -> HostTerms {
    common::auth::terms(&auth.secret, auth.controller_secret.as_ref())
}

/// An admin queue that is connected and no more.
fn connect(running: &Running) -> (Host<TcpStream>, ControllerId) {
    let mut host = Host::plain(running.tcp());
    let cntlid = host.connect_unproved();
    (host, cntlid)
}

fn failure(bytes: &[u8]) -> FailureReason {
    match AuthMessage::decode(bytes) {
        Ok(AuthMessage::Failure1(failure)) => failure.reason,
        other => panic!("{other:?}"),
    }
}

fn cap(host: &mut Host<TcpStream>) -> Status {
    let cid = host.cid();
    host.execute(&PropertyGet::of(Property::Cap).sqe(cid)).status()
}

#[test]
fn p13_who_knows_the_secret_reads_and_writes() {
    for (hash, group) in AuthHash::ALL.into_iter().zip([DhGroup::Null, DhGroup::Ffdhe2048, DhGroup::Ffdhe8192]) {
        let auth = auth(hash, group);
        let running = running(auth.clone());
        for (way, mutual) in [(Way::InCapsule, true), (Way::Asked(100), false)] {
            let terms =
                HostTerms { controller_secret: auth.controller_secret.clone().filter(|_| mutual), ..terms(&auth) };
            let (mut admin, cntlid) = connect(&running);
            admin.authenticate(terms.clone(), way);
            admin.enable();
            let mut io = Host::plain(running.tcp());
            io.connect_io(cntlid, 1, 16, true);
            io.authenticate(terms.clone(), way);
            assert_eq!(io.read(1, 0, 8, 512).unwrap(), pattern(1, FILE_BYTES)[..4096]);
            assert!(io.write(1, 0, &pattern(1, 4096), 512, Way::InCapsule).is_success());
            // Once more, on a queue that stands.
            io.authenticate(terms, way);
            assert!(io.read(1, 0, 1, 512).is_ok());
        }
        assert_eq!(running.target.status().faults.refused_hosts, 0);
        running.stop();
    }
}

#[test]
fn p13_nothing_else_is_done_before_a_host_has_proved_itself() {
    let auth = auth(AuthHash::Sha256, DhGroup::Ffdhe2048);
    let running = running(auth.clone());
    let (mut admin, cntlid) = connect(&running);
    assert_eq!(cap(&mut admin), REQUIRED);
    // An I/O queue of a controller that is not enabled is refused; enabling it takes the proof.
    assert!(!Host::plain(running.tcp()).try_connect_io(cntlid, 1, 16, true).status().is_success());
    let (mut exchange, negotiate) = HostExchange::begin(terms(&auth), 3);
    assert!(admin.auth_send(&negotiate, Way::InCapsule).is_success());
    assert_eq!(cap(&mut admin), REQUIRED, "half way through");
    let reply = exchange.challenged(&admin.auth_receive()).unwrap();
    assert!(admin.auth_send(&reply, Way::InCapsule).is_success());
    let success2 = exchange.concluded(&admin.auth_receive()).unwrap().unwrap();
    assert_eq!(cap(&mut admin), REQUIRED, "it has not yet said that it believes the target");
    assert!(admin.auth_send(&success2, Way::InCapsule).is_success());
    admin.enable();

    let mut io = Host::plain(running.tcp());
    io.connect_io(cntlid, 1, 16, true);
    assert_eq!(io.read(1, 0, 1, 512), Err(REQUIRED));
    assert_eq!(io.write(1, 0, &[0; 512], 512, Way::InCapsule), REQUIRED);
    io.authenticate(terms(&auth), Way::InCapsule);
    assert_eq!(io.read(1, 0, 1, 512).unwrap(), pattern(1, FILE_BYTES)[..512], "nothing was written");
    running.stop();
}

#[test]
fn p13_a_wrong_secret_is_told_so_and_the_connection_ends() {
    for wrong_host in [true, false] {
        let auth = auth(AuthHash::Sha256, DhGroup::Null);
        let running = running(auth.clone());
        let mut terms = terms(&auth);
        if wrong_host {
            terms.secret = Secret::generate(Some(AuthHash::Sha256)).unwrap();
        } else {
            terms.controller_secret = Some(Secret::generate(None).unwrap());
        }
        let (mut host, _) = connect(&running);
        let (mut exchange, negotiate) = HostExchange::begin(terms, 3);
        assert!(host.auth_send(&negotiate, Way::InCapsule).is_success());
        let reply = exchange.challenged(&host.auth_receive()).unwrap();
        assert!(host.auth_send(&reply, Way::InCapsule).is_success());
        let last = host.auth_receive();
        let given_up = exchange.concluded(&last).unwrap_err();
        if wrong_host {
            assert_eq!(failure(&last), FailureReason::AuthenticationFailed);
        } else {
            assert!(given_up.why.to_string().contains("did not prove itself"), "{}", given_up.why);
            assert!(host.auth_send(&given_up.message.unwrap(), Way::InCapsule).is_success());
        }
        assert!(host.receive().is_none(), "the target ends the connection");
        let status = running.target.status();
        assert_eq!((status.faults.refused_hosts, status.controllers.as_ref().unwrap().len()), (1, 0));
        running.stop();
    }
}

#[test]
fn p13_p14_hosts_that_misbehave_are_refused() {
    let auth = auth(AuthHash::Sha256, DhGroup::Ffdhe2048);
    let running = running(auth.clone());
    let negotiate = HostExchange::begin(terms(&auth), 3).1;
    let mut wants_channel = negotiate.clone();
    wants_channel[6] = 1;
    let mut unknown_hash = negotiate.clone();
    unknown_hash[12..42].fill(9);
    let mut unknown_group = negotiate.clone();
    unknown_group[42..72].fill(9);
    let mut long_list = negotiate.clone();
    long_list[10] = 200;
    for (bytes, reason) in [
        (&wants_channel[..], FailureReason::SecureChannelMismatch),
        (&unknown_hash, FailureReason::HashNotUsable),
        (&unknown_group, FailureReason::GroupNotUsable),
        (&long_list, FailureReason::IncorrectPayload),
        (&negotiate[..40], FailureReason::IncorrectPayload),
        (&[0], FailureReason::IncorrectPayload),
        (&[0xFF; 4096], FailureReason::IncorrectPayload),
        (&AuthMessage::Success2(3).encode(), FailureReason::IncorrectMessage),
    ] {
        let (mut host, _) = connect(&running);
        assert!(host.auth_send(bytes, Way::InCapsule).is_success());
        assert_eq!(failure(&host.auth_receive()), reason);
    }
    assert_eq!(running.target.status().faults.refused_hosts, 8);

    // Commands that are wrong in themselves are refused, and nothing is lost.
    let (mut host, _) = connect(&running);
    let invalid = Status::permanent(StatusCode::InvalidField);
    assert_eq!(host.auth_send(&[0; 4097], Way::InCapsule), invalid);
    assert_eq!(host.auth_receive_bytes(0).status(), invalid);
    assert_eq!(host.auth_receive_bytes(1 << 20).status(), invalid);
    let early = Status::permanent(StatusCode::CommandSequenceError);
    assert_eq!(host.auth_receive_bytes(4096).status(), early, "there is nothing to tell yet");
    let cid = host.cid();
    let mut other_protocol = AuthSend { length_bytes: 8 }.sqe(cid);
    other_protocol.as_bytes_mut()[43] = 0xEF;
    assert_eq!(host.execute_with(other_protocol, &[0; 8], Way::InCapsule).status(), invalid);
    let cid = host.cid();
    let lies = AuthSend { length_bytes: 100 }.sqe(cid);
    let wrong_length = Status::permanent(StatusCode::SglDataLengthInvalid);
    assert_eq!(host.execute_with(lies, &[0; 8], Way::InCapsule).status(), wrong_length);
    host.authenticate(terms(&auth), Way::InCapsule);

    // Many messages at once: one is looked at, and memory for one is taken.
    let (mut host, _) = connect(&running);
    for _ in 0..8 {
        let cid = host.cid();
        let sqe = AuthSend { length_bytes: 4096 }.sqe(cid).with_sgl(SglDescriptor::Transport { length: 4096 });
        host.send_command(&sqe, &[]);
    }
    let answers: Vec<_> = (0..8).map(|_| host.receive().unwrap().pdu).collect();
    let asked = answers.iter().filter(|pdu| matches!(pdu, nvferry_wire::pdu::Pdu::R2t(_))).count();
    assert_eq!(asked, 1, "{answers:?}");
    drop(host);
    running.stop();
}

#[test]
fn discovery_asks_for_no_secret() {
    let running = running(auth(AuthHash::Sha256, DhGroup::Ffdhe2048));
    let mut host = Host::plain(running.tcp());
    host.connect_admin(nvferry_wire::nqn::DISCOVERY_NQN, 0);
    assert!(cap(&mut host).is_success());
    running.stop();
}

/// One reactor serves them all: what one exchange takes of its time, all others would wait for.
#[test]
fn p13_a_flood_of_exchanges_keeps_no_host_that_is_connected_from_working() {
    let auth = auth(AuthHash::Sha256, DhGroup::Ffdhe8192);
    let mut options = UserspaceOptions::default();
    options.reactors = Some(1);
    let running = running_with(auth.clone(), options);
    let (mut admin, cntlid) = connect(&running);
    admin.authenticate(terms(&auth), Way::InCapsule);
    admin.enable();
    let mut io = Host::plain(running.tcp());
    io.connect_io(cntlid, 1, 16, true);
    io.authenticate(terms(&auth), Way::InCapsule);

    let negotiate = HostExchange::begin(terms(&auth), 3).1;
    let mut flood: Vec<_> = (0..64).map(|_| connect(&running).0).collect();
    flood.iter_mut().for_each(|host| host.auth_send_only(&negotiate));
    assert_eq!(io.read(1, 0, 8, 512).unwrap(), pattern(1, FILE_BYTES)[..4096]);
    assert!(io.write(1, 0, &pattern(1, 4096), 512, Way::Asked(100)).is_success());
    assert!(admin.csts().ready());
    // Each of the 64 takes some tens of milliseconds of another thread.
    let unanswered = flood.iter().filter(|host| {
        host.io.set_nonblocking(true).unwrap();
        host.io.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    });
    assert!(unanswered.count() > 0, "the reads had to wait until all messages of the flood were taken in");
    assert_eq!(running.target.status().connections, 66);
    running.stop();
}
