//! Hosts that send what makes no sense, or too much of what does: each is told so in the specification's words, nothing
//! is kept for it, and others are served (P14).

use super::harness::{Pipe, Target};
use super::host::{HOST, Host, SUBSYSTEM, connect_data};
use crate::userspace::limits;
use nvferry_wire::admin::{Abort, AdminOpcode, async_event_request, keep_alive};
use nvferry_wire::fabrics::{
    CONNECT_DATA_LEN, Cc, Connect, ConnectInvalid, Property, PropertyGet, PropertySet, PropertySize,
};
use nvferry_wire::nvm::NvmOpcode;
use nvferry_wire::pdu::{CapsuleCmd, DataAlignment, Digests, MAX_HEADER_BYTES, Pdu};
use nvferry_wire::{CommandId, ControllerId, Cqe, Nsid, QueueId, SglDescriptor, Sqe, Status, StatusCode};
use std::time::Duration;

const ADMIN: Connect = Connect {
    qid: QueueId::ADMIN,
    sq_entries: 32,
    disable_sq_flow_control: false,
    individual_io_queue_deletion: false,
    kato_ms: 0,
};

/// Sends all of these commands before the target listens.
fn send_together(host: &mut Host<Pipe>, sqes: &[Sqe]) {
    let mut bytes = Vec::new();
    for sqe in sqes {
        let mut out = [0; MAX_HEADER_BYTES];
        let len = CapsuleCmd { sqe: *sqe, data_bytes: 0 }.encode(&host.framing, &mut out);
        bytes.extend_from_slice(&out[..len]);
    }
    host.send_raw(&bytes).unwrap();
}

fn completions(host: &mut Host<Pipe>, count: usize) -> Vec<Cqe> {
    let next = |_| match host.receive().unwrap().pdu {
        Pdu::CapsuleResp(response) => response.cqe,
        other => panic!("{other:?}"),
    };
    (0..count).map(next).collect()
}

#[test]
fn p14_thousands_of_connections_that_say_nothing_hinder_nobody_and_end() {
    let target = Target::new();
    target.offer(1, &[1; 4096]);
    let (mut admin, cntlid) = target.admin(0);
    let mut io = target.io(cntlid, 1, Digests::NONE, DataAlignment::NONE);
    let silent: Vec<Pipe> = (0..3000).map(|_| target.pipe()).collect();
    let halves: Vec<Host<Pipe>> = (0..200).map(|_| Host::plain(target.pipe())).collect();
    assert_eq!(io.read(1, 0, 8, 512).unwrap(), [1; 4096]);
    target.with(|sim| {
        let held = |pool: &nvferry_io::BufferPool| pool.stats().in_use_bytes;
        assert_eq!((held(&sim.worker.core.data_pool), held(&sim.worker.core.capsule_pool)), (0, 0));
        assert_eq!(sim.worker.len(), 2 + limits::MAX_STRANGERS, "the oldest had to go");
    });
    target.pass(limits::HANDSHAKE_TIMEOUT);
    target.with(|sim| assert_eq!(sim.worker.len(), 2, "only who connected a queue is left"));
    assert!(io.read(1, 0, 8, 512).is_ok() && admin.csts().ready());
    drop((silent, halves));
}

#[test]
fn p14_a_handshake_that_comes_drop_by_drop_is_cut_off() {
    let target = Target::new();
    let (mut admin, _) = target.admin(0);
    let mut slow = target.pipe();
    let mut out = [0; MAX_HEADER_BYTES];
    let icreq = nvferry_wire::pdu::IcReq { pfv: 0, hpda: DataAlignment::NONE, digests: Digests::NONE, maxr2t: 1 };
    let len = icreq.encode(&mut out);
    let mut seconds = 0;
    for byte in &out[..len] {
        if std::io::Write::write(&mut slow, std::slice::from_ref(byte)).is_err() {
            break;
        }
        target.pass(Duration::from_secs(1));
        seconds += 1;
    }
    assert!(Duration::from_secs(seconds) <= limits::HANDSHAKE_TIMEOUT + Duration::from_secs(1), "{seconds} s");
    target.with(|sim| assert_eq!(sim.worker.len(), 1));
    assert!(admin.csts().ready());
}

/// A byte a second is progress, but not enough of it: memory for the transfer is held meanwhile.
#[test]
fn p14_data_that_comes_drop_by_drop_is_cut_off() {
    let target = Target::new();
    target.offer(1, &vec![0; 1 << 20]);
    let (_admin, cntlid) = target.admin(0);
    let mut io = target.io(cntlid, 1, Digests::NONE, DataAlignment::NONE);
    let mut sqe = io.write_sqe(1, 0, 2048);
    sqe.set_sgl(SglDescriptor::Transport { length: 1 << 20 });
    io.send_command(&sqe, &[]);
    let Pdu::R2t(r2t) = io.receive().unwrap().pdu else { panic!("an R2T") };
    let pdu = nvferry_wire::pdu::DataPdu {
        cccid: r2t.cccid,
        ttag: r2t.ttag,
        datao: 0,
        datal: 1 << 20,
        end: nvferry_wire::pdu::DataEnd::Last,
    };
    let mut out = [0; MAX_HEADER_BYTES];
    let len = pdu.encode_h2c(&io.framing, &mut out);
    io.send_raw(&out[..len]).unwrap();
    let mut seconds = 0;
    while io.send_raw(&[7]).is_ok() && seconds < 1000 {
        target.pass(Duration::from_secs(1));
        seconds += 1;
    }
    assert!(seconds <= 2 * limits::RECEIVE_STALL_TIMEOUT.as_secs(), "{seconds} s");
    target.with(|sim| assert_eq!(sim.worker.core.data_pool.stats().in_use_bytes, 0, "the buffer is back"));

    // Slow, but not that slow: it goes on for as long as it takes.
    let mut io = target.io(cntlid, 2, Digests::NONE, DataAlignment::NONE);
    let mut sqe = io.write_sqe(1, 0, 2048);
    sqe.set_sgl(SglDescriptor::Transport { length: 1 << 20 });
    io.send_command(&sqe, &[]);
    let Pdu::R2t(r2t) = io.receive().unwrap().pdu else { panic!("an R2T") };
    let pdu = nvferry_wire::pdu::DataPdu { cccid: r2t.cccid, ttag: r2t.ttag, ..pdu };
    let len = pdu.encode_h2c(&io.framing, &mut out);
    io.send_raw(&out[..len]).unwrap();
    for _ in 0..128 {
        target.pass(Duration::from_secs(3));
        io.send_raw(&[7; 8192]).unwrap();
    }
    assert!(io.finish(sqe.cid(), &[], 0).status().is_success());
}

#[test]
fn p14_a_host_that_listens_drop_by_drop_is_cut_off() {
    let target = Target::new();
    target.offer(1, &vec![0; 1 << 20]);
    let (_admin, cntlid) = target.admin(0);
    let mut io = target.io(cntlid, 1, Digests::NONE, DataAlignment::NONE);
    for _ in 0..4 {
        let sqe = io.read_sqe(1, 0, 2048, 512);
        io.send_command(&sqe, &[]);
    }
    target.wait_until_idle();
    let mut seconds = 0;
    while target.with(|sim| sim.worker.len()) > 1 && seconds < 1000 {
        let mut one = [0];
        let _ = std::io::Read::read(&mut io.io, &mut one);
        target.pass(Duration::from_secs(1));
        seconds += 1;
    }
    assert!(seconds <= 2 * limits::SEND_STALL_TIMEOUT.as_secs(), "{seconds} s");
    target.with(|sim| assert_eq!(sim.worker.core.data_pool.stats().in_use_bytes, 0, "all buffers are back"));
}

#[test]
fn p14_a_flood_of_event_requests_leaves_four_waiting() {
    let target = Target::new();
    let (mut admin, _) = target.admin(0);
    let sqes: Vec<Sqe> = (0..1000).map(|at| async_event_request(CommandId(1000 + at))).collect();
    send_together(&mut admin, &sqes);
    let refused = completions(&mut admin, 1000 - limits::MAX_ASYNC_EVENTS);
    let limit = Status::permanent(StatusCode::AsyncEventLimitExceeded);
    assert!(refused.iter().all(|cqe| cqe.status == limit), "{refused:?}");
    assert!(admin.csts().ready());
    target.with(|sim| assert_eq!(sim.worker.busy(), 0));
}

#[test]
fn p14_a_storm_of_aborts_is_answered_and_aborts_nothing_else() {
    let target = Target::new();
    let (mut admin, _) = target.admin(0);
    let event = admin.cid();
    send_together(&mut admin, &[async_event_request(event)]);
    let sqes: Vec<Sqe> = (0..1000_u16)
        .map(|at| Abort { sqid: QueueId(at % 3), cid: CommandId(5000 + at) }.sqe(CommandId(1000 + at)))
        .collect();
    send_together(&mut admin, &sqes);
    for cqe in completions(&mut admin, 1000) {
        assert!(cqe.status.is_success() && cqe.result == Abort::NOT_ABORTED, "{cqe:?}");
    }
    // The event request is still there, under its own name and on no other queue.
    let cid = admin.cid();
    let ended = admin.execute(&Abort { sqid: QueueId(1), cid: event }.sqe(cid));
    assert_eq!(ended.cqe.result, Abort::NOT_ABORTED);
    let cid = admin.cid();
    send_together(&mut admin, &[Abort { sqid: QueueId::ADMIN, cid: event }.sqe(cid)]);
    let both = completions(&mut admin, 2);
    assert_eq!((both[0].cid, both[0].status.code), (event, StatusCode::AbortRequested));
}

#[test]
fn p14_before_it_is_enabled_a_controller_takes_fabrics_commands_only() {
    let target = Target::new();
    let mut admin = Host::plain(target.pipe());
    assert!(admin.connect(&ADMIN, &connect_data(SUBSYSTEM, HOST, ControllerId::DYNAMIC)).status().is_success());
    let out_of_order = Status::permanent(StatusCode::CommandSequenceError);
    for opcode in [AdminOpcode::GetLogPage, AdminOpcode::SetFeatures, AdminOpcode::GetFeatures, AdminOpcode::Abort] {
        let sqe = Sqe::new(opcode as u8, admin.cid(), Nsid(0)).with_sgl(SglDescriptor::Transport { length: 0 });
        assert_eq!(admin.execute(&sqe).status(), out_of_order, "{opcode:?}");
    }
    let cid = admin.cid();
    assert_eq!(admin.execute(&async_event_request(cid)).status(), out_of_order);
    let cid = admin.cid();
    assert_eq!(admin.execute(&keep_alive(cid)).status(), out_of_order);
    // A second Connect, for whatever queue.
    for connect in [ADMIN, Connect { qid: QueueId(1), ..ADMIN }] {
        let again = admin.connect(&connect, &connect_data(SUBSYSTEM, HOST, ControllerId::DYNAMIC));
        assert_eq!(again.status(), out_of_order);
    }
    admin.enable();
    let cid = admin.cid();
    assert!(admin.execute(&keep_alive(cid)).status().is_success());
}

#[test]
fn p14_property_sets_that_make_no_sense_change_nothing() {
    let target = Target::new();
    let (mut admin, _) = target.admin(0);
    let invalid = Status::permanent(StatusCode::InvalidField);
    let before = admin.property(Property::Cc);
    let set = |property: Property, size, value| PropertySet { size, ..PropertySet::of(property, value) };
    let (four, eight) = (PropertySize::Four, PropertySize::Eight);
    let enabled = u64::from(Cc::enabled().0);
    let nonsense = [
        ("CAP", set(Property::Cap, eight, 0)),
        ("VS", set(Property::Vs, four, 0)),
        ("CSTS", set(Property::Csts, four, 1)),
        ("NSSR", set(Property::Nssr, four, 0x4E56_4D65)),
        ("CC of eight bytes", set(Property::Cc, eight, enabled)),
        ("entries of other sizes", set(Property::Cc, four, 1)),
        ("larger pages", set(Property::Cc, four, enabled | 3 << 7)),
        ("another arbitration", set(Property::Cc, four, enabled | 1 << 11)),
        ("another command set", set(Property::Cc, four, enabled | 1 << 4)),
        ("an offset without a property", PropertySet { offset: 0x1000, ..set(Property::Cc, four, 0) }),
    ];
    for (what, set) in nonsense {
        let cid = admin.cid();
        assert_eq!(admin.execute(&set.sqe(cid)).status(), invalid, "{what}");
    }
    let cid = admin.cid();
    let get = PropertyGet { offset: 0x1001, ..PropertyGet::of(Property::Cc) };
    assert_eq!(admin.execute(&get.sqe(cid)).status(), invalid);
    assert_eq!(admin.property(Property::Cc), before);
    assert!(admin.csts().ready());
}

#[test]
fn p14_connect_data_that_makes_no_sense_is_told_by_its_field() {
    let target = Target::new();
    let mut host = Host::plain(target.pipe());
    let mut good = [0; CONNECT_DATA_LEN];
    connect_data(SUBSYSTEM, HOST, ControllerId::DYNAMIC).encode(&mut good);
    type Spoil = fn(&mut [u8; CONNECT_DATA_LEN]);
    let cases: [(&str, Spoil, ConnectInvalid); 5] = [
        ("a name without an end", |data| data[256..512].fill(b'n'), ConnectInvalid::SUBNQN),
        ("no name", |data| data[512..768].fill(0), ConnectInvalid::HOSTNQN),
        ("a name of other bytes", |data| data[512..600].fill(0xFF), ConnectInvalid::HOSTNQN),
        ("no host id", |data| data[..16].fill(0), ConnectInvalid::HOSTID),
        ("a controller of its own choice", |data| data[16..18].copy_from_slice(&[7, 0]), ConnectInvalid::CNTLID),
    ];
    for (what, spoil, invalid) in cases {
        let mut data = good;
        spoil(&mut data);
        let cid = host.cid();
        let ended = host.execute_with(ADMIN.sqe(cid), &data, super::host::Way::InCapsule);
        assert_eq!(ended.status().for_fabrics(), Status::permanent(StatusCode::ConnectInvalidParameters), "{what}");
        assert_eq!(ConnectInvalid::from_result(ended.cqe.result), invalid, "{what}");
    }
    let cid = host.cid();
    let mut sqe = ADMIN.sqe(cid);
    sqe.as_bytes_mut()[40] = 1;
    let ended = host.execute_with(sqe, &good, super::host::Way::InCapsule);
    assert_eq!(
        ended.status().for_fabrics(),
        Status::permanent(StatusCode::ConnectIncompatibleFormat),
        "another record format"
    );
    for length in [0, 1023, 1025, u32::MAX] {
        let cid = host.cid();
        let sqe = ADMIN.sqe(cid).with_sgl(SglDescriptor::Transport { length });
        let ended = host.execute(&sqe);
        assert_eq!(ended.status(), Status::permanent(StatusCode::SglDataLengthInvalid), "{length} bytes");
    }
    assert!(target.with(|sim| sim.subsystem.controllers().is_empty()), "nothing was made for it");
}

#[test]
fn p14_data_pointers_of_other_kinds_are_refused() {
    let target = Target::new();
    target.offer(1, &[1; 4096]);
    let (_admin, cntlid) = target.admin(0);
    let mut io = target.io(cntlid, 1, Digests::NONE, DataAlignment::NONE);
    // Data block by address, bit bucket, segments, keyed, transport with other subtypes, vendor's.
    for identifier in [0x00, 0x10, 0x20, 0x30, 0x02, 0x40, 0x4F, 0x50, 0x5F, 0xF0] {
        for opcode in [NvmOpcode::Read, NvmOpcode::Write, NvmOpcode::Compare] {
            let mut sqe = io.write_sqe(1, 0, 1);
            sqe.as_bytes_mut()[0] = opcode as u8;
            sqe.as_bytes_mut()[32..36].copy_from_slice(&512_u32.to_le_bytes());
            sqe.as_bytes_mut()[39] = identifier;
            let status = io.execute(&sqe).status();
            assert_eq!(status, Status::permanent(StatusCode::SglDescriptorTypeInvalid), "{identifier:#x} {opcode:?}");
        }
    }
    // Pages in place of an SGL.
    let mut sqe = io.read_sqe(1, 0, 1, 512);
    sqe.as_bytes_mut()[1] &= 0x3F;
    assert_eq!(io.execute(&sqe).status(), Status::permanent(StatusCode::InvalidField));
    // Fused with a command that does not come.
    let mut sqe = io.read_sqe(1, 0, 1, 512);
    sqe.as_bytes_mut()[1] |= 1;
    assert_eq!(io.execute(&sqe).status(), Status::permanent(StatusCode::InvalidField));
    assert_eq!(io.read(1, 0, 8, 512).unwrap(), [1; 4096]);
    target.with(|sim| assert_eq!(sim.worker.busy(), 0));
}
