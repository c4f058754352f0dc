//! P13 in virtual time: a host that does not prove itself is ended in time, and meanwhile keeps no other from working.

use super::auth::terms;
use super::harness::{Pipe, Target};
use super::host::{HOST, Host, Way};
use crate::desired::{AllowedHost, AllowedHosts, HostAuth};
use crate::userspace::limits;
use nvferry_auth::{DhGroup, HostExchange, HostTerms, Secret};
use nvferry_wire::auth::AuthSend;
use nvferry_wire::pdu::{DataAlignment, Digests, Pdu};
use nvferry_wire::{ControllerId, Nqn, SglDescriptor};
use std::sync::atomic::Ordering;
use std::time::Duration;

const MOMENT: Duration = Duration::from_millis(1);

/// A target with one file and one host that may come, and what that has to prove.
fn guarded() -> (Target, HostTerms) {
    let secret = Secret::generate(None).unwrap();
    let auth = HostAuth { group: DhGroup::Null, ..HostAuth::new(secret.clone()) };
    let hosts = AllowedHosts::Only(vec![AllowedHost { nqn: Nqn::new(HOST).unwrap(), auth: Some(auth) }]);
    let target = Target::letting_in(hosts);
    target.offer(1, &[1; 4096]);
    (target, terms(&secret, None))
}

/// A host that has proved itself, on both its queues.
fn proved(target: &Target, terms: &HostTerms) -> (Host<Pipe>, Host<Pipe>, ControllerId) {
    let mut admin = Host::plain(target.pipe());
    let cntlid = admin.connect_unproved();
    admin.authenticate(terms.clone(), Way::InCapsule);
    admin.enable();
    let mut io = target.io(cntlid, 1, Digests::NONE, DataAlignment::NONE);
    io.authenticate(terms.clone(), Way::InCapsule);
    (admin, io, cntlid)
}

/// How far a host goes before it falls silent.
#[derive(Debug, Clone, Copy)]
enum Until {
    Connected,
    /// It has announced a message, and does not send it.
    Asked,
    Negotiated,
    Challenged,
    Refuted,
}

const ALL: [Until; 5] = [Until::Connected, Until::Asked, Until::Negotiated, Until::Challenged, Until::Refuted];

fn go_until(host: &mut Host<Pipe>, terms: &HostTerms, until: Until) {
    let (mut exchange, negotiate) = HostExchange::begin(terms.clone(), 3);
    match until {
        Until::Connected => {}
        Until::Asked => {
            let cid = host.cid();
            let length = negotiate.len() as u32;
            let sqe = AuthSend { length_bytes: length }.sqe(cid).with_sgl(SglDescriptor::Transport { length });
            host.send_command(&sqe, &[]);
            assert!(matches!(host.receive().unwrap().pdu, Pdu::R2t(_)));
        }
        Until::Negotiated => assert!(host.auth_send(&negotiate, Way::InCapsule).is_success()),
        Until::Challenged | Until::Refuted => {
            assert!(host.auth_send(&negotiate, Way::InCapsule).is_success());
            let mut reply = exchange.challenged(&host.auth_receive()).unwrap();
            if matches!(until, Until::Refuted) {
                // Its response is wrong, and it does not ask for the verdict.
                let last = reply.len() - 1;
                reply[last] ^= 1;
                reply[16] ^= 1;
                assert!(host.auth_send(&reply, Way::InCapsule).is_success());
            }
        }
    }
}

#[test]
fn p13_a_host_that_falls_silent_before_it_has_proved_itself_is_ended_in_time() {
    for until in ALL {
        let (target, terms) = guarded();
        let mut host = Host::plain(target.pipe());
        host.connect_unproved();
        // Messages do not lengthen its time.
        target.pass(limits::AUTHENTICATION_TIMEOUT / 2);
        go_until(&mut host, &terms, until);
        target.pass(limits::AUTHENTICATION_TIMEOUT / 2 - MOMENT);
        target.with(|sim| assert_eq!(sim.worker.len(), 1, "{until:?}"));
        target.pass(MOMENT);
        assert!(host.receive().is_none(), "{until:?}");
        target.with(|sim| {
            assert_eq!((sim.worker.len(), sim.subsystem.controllers().len()), (0, 0), "{until:?}");
            let faults = sim.subsystem.faults.totals();
            assert_eq!((faults.timeouts, faults.refused_hosts), (1, 1), "{until:?}");
            assert_eq!(sim.worker.core.data_pool.stats().in_use_bytes, 0, "{until:?}");
        });
    }
}

#[test]
fn p13_an_io_queue_that_falls_silent_ends_and_the_host_goes_on() {
    for until in ALL {
        let (target, terms) = guarded();
        let (mut admin, mut io, cntlid) = proved(&target, &terms);
        let mut silent = target.io(cntlid, 2, Digests::NONE, DataAlignment::NONE);
        go_until(&mut silent, &terms, until);
        target.pass(limits::AUTHENTICATION_TIMEOUT);
        assert!(silent.receive().is_none(), "{until:?}");
        assert_eq!(io.read(1, 0, 1, 512).unwrap(), [1; 512]);
        // The queue's id is free again, and whoever has proved himself may be silent.
        let mut again = target.io(cntlid, 2, Digests::NONE, DataAlignment::NONE);
        again.authenticate(terms, Way::InCapsule);
        target.pass(Duration::from_secs(100_000));
        assert!(again.read(1, 0, 1, 512).is_ok() && admin.csts().ready(), "{until:?}");
    }
}

#[test]
fn p13_sixty_four_hosts_that_prove_nothing_keep_no_other_from_working() {
    let (target, terms) = guarded();
    let (mut admin, mut io, _) = proved(&target, &terms);
    let mut flood: Vec<_> = (0..64)
        .map(|at| {
            let mut host = Host::plain(target.pipe());
            host.connect_unproved();
            go_until(&mut host, &terms, ALL[at % ALL.len()]);
            assert_eq!(io.read(1, 0, 1, 512).unwrap(), [1; 512], "beside {at} others");
            host
        })
        .collect();
    assert!(admin.csts().ready());
    // One who comes while they are there gets in.
    let (_admin, mut newcomer, _) = proved(&target, &terms);
    assert!(newcomer.read(1, 0, 1, 512).is_ok());
    target.pass(limits::AUTHENTICATION_TIMEOUT);
    assert!(flood.iter_mut().all(|host| host.receive().is_none()));
    target.with(|sim| assert_eq!((sim.worker.len(), sim.subsystem.controllers().len()), (4, 2)));
    assert!(io.read(1, 0, 1, 512).is_ok() && newcomer.read(1, 0, 1, 512).is_ok());
}

/// They connected, and have a controller; but nobody knows who they are.
#[test]
fn p14_hosts_that_prove_nothing_and_clients_of_discovery_make_room_for_hosts() {
    let (target, terms) = guarded();
    let (mut admin, mut io, _) = proved(&target, &terms);
    let mut strangers: Vec<_> = (0..limits::MAX_STRANGERS)
        .map(|number| {
            let mut host = Host::plain(target.pipe());
            if number % 2 == 0 {
                host.connect_unproved();
            } else {
                host.connect_admin(nvferry_wire::nqn::DISCOVERY_NQN, 0);
            }
            host
        })
        .collect();
    let (mut late_admin, mut late_io, _) = proved(&target, &terms);
    assert!(
        strangers[0].receive().is_none(),
        "the oldest went; a queue that has proved itself does not count any more"
    );
    let _idle = [target.pipe(), target.pipe()];
    assert!(strangers[1].receive().is_none(), "who only asks what there is goes in its turn, too");
    assert!(strangers[3].csts().ready(), "others stay");
    assert!(admin.csts().ready() && late_admin.csts().ready());
    for queue in [&mut io, &mut late_io] {
        assert_eq!(queue.read(1, 0, 1, 512).unwrap(), [1; 512]);
    }
    target.with(|sim| assert_eq!(sim.subsystem.known_connections.load(Ordering::Relaxed), 4));
}
