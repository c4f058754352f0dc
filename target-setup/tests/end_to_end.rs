//! The thinnest way through: connect, identify, read, write.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::host::Way;
use common::{Running, pattern};
use nvferry_wire::Nsid;
use nvferry_wire::admin::Identify;
use nvferry_wire::identify::{Cns, IdentifyController, IdentifyNamespace};

const MIB: usize = 1 << 20;

#[test]
fn a_host_connects_identifies_reads_and_writes() {
    let running = Running::with_file(4 * MIB);
    let (mut admin, mut io) = running.queues();

    let cid = admin.cid();
    let page = IdentifyController::decode(&admin.execute(&Identify::controller().sqe(cid)).data).unwrap();
    assert_eq!(page.max_transfer_bytes(4096), Some(1 << 20));
    assert_eq!(page.max_in_capsule_bytes(), 64 << 10);
    let cid = admin.cid();
    let page = admin.execute(&Identify::of(Cns::Namespace, Nsid(1)).sqe(cid)).data;
    let namespace = IdentifyNamespace::decode(&page).unwrap();
    assert_eq!(namespace.nsze, 4 * MIB as u64 / 512);
    assert_eq!(namespace.format().block_bytes(), Some(512));

    let file = pattern(1, 4 * MIB);
    assert_eq!(io.read(1, 0, 8, 512).unwrap(), file[..4096]);
    assert_eq!(io.read(1, 1024, 2048, 512).unwrap(), file[MIB / 2..MIB / 2 + MIB]);

    let small = pattern(2, 4096);
    assert!(io.write(1, 16, &small, 512, Way::InCapsule).is_success());
    assert_eq!(io.read(1, 16, 8, 512).unwrap(), small);
    let large = pattern(3, MIB);
    assert!(io.write(1, 2048, &large, 512, Way::Asked(usize::MAX)).is_success());
    assert_eq!(io.read(1, 2048, 2048, 512).unwrap(), large);
    running.stop();
}
