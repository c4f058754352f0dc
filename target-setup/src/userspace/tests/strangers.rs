//! P14: strangers, however many and however long they say nothing, keep no host out, and cost only so much.

use super::harness::{Pipe, Target};
use crate::userspace::limits;
use nvferry_wire::pdu::{DataAlignment, Digests};
use std::io::Read;
use std::sync::atomic::Ordering;

/// Whether the target has closed it; it has said nothing.
fn is_closed(stranger: &mut Pipe) -> bool {
    matches!(stranger.read(&mut [0]), Ok(0))
}

#[test]
fn p14_connections_that_say_nothing_make_room_for_newer_ones() {
    let target = Target::new();
    target.offer(1, &[1; 4096]);
    let (mut admin, cntlid) = target.admin(0);
    let mut io = target.io(cntlid, 1, Digests::NONE, DataAlignment::NONE);
    let mut idle: Vec<_> = (0..limits::MAX_STRANGERS).map(|_| target.pipe()).collect();
    assert!(!is_closed(&mut idle[0]), "there is room for all");
    let (mut newcomer, _) = target.admin(0);
    assert!(is_closed(&mut idle[0]) && !is_closed(&mut idle[1]), "the oldest goes, and no other");
    // The newcomer has shown who it is, and does not count any more.
    idle.push(target.pipe());
    assert!(!is_closed(&mut idle[1]));
    idle.push(target.pipe());
    assert!(is_closed(&mut idle[1]) && !is_closed(&mut idle[2]));
    idle.extend((0..2 * limits::MAX_STRANGERS).map(|_| target.pipe()));
    assert!(newcomer.csts().ready() && admin.csts().ready());
    assert_eq!(io.read(1, 0, 1, 512).unwrap(), [1; 512]);
    let counts = |target: &Target| {
        target.with(|sim| {
            let [all, known] = [&sim.subsystem.connections, &sim.subsystem.known_connections];
            (all.load(Ordering::Relaxed), known.load(Ordering::Relaxed))
        })
    };
    assert_eq!(counts(&target), (3 + limits::MAX_STRANGERS, 3));
    let refused = target.with(|sim| sim.subsystem.faults.totals().refused_connections);
    assert_eq!(refused as usize, 2 + 2 * limits::MAX_STRANGERS);
    // Those who leave by themselves make room, too.
    drop(idle);
    target.turn_until_quiet();
    assert_eq!(counts(&target), (3, 3));
    drop((admin, io, newcomer));
    target.turn_until_quiet();
    assert_eq!(counts(&target), (0, 0));
}
