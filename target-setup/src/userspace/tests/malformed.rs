//! Bytes that no host should send: the connection ends, the target goes on serving others.

use super::harness::{Pipe, Random, Target};
use super::host::{HOST, Host, SUBSYSTEM, connect_data};
use nvferry_wire::fabrics::{CONNECT_DATA_LEN, Cc, Connect, Property, PropertySet};
use nvferry_wire::pdu::{
    CapsuleCmd, DataAlignment, DataEnd, DataPdu, Digests, Framing, IcReq, MAX_HEADER_BYTES, PFV_1_0,
};
use nvferry_wire::{CommandId, ControllerId, QueueId, SglDescriptor, Sqe, TransferTag};
use std::io::{Read, Write};

/// Sends as much as the target takes, `goes` bytes at a time, and reads as much as it says.
fn pour(pipe: &mut Pipe, bytes: &[u8], goes: usize) {
    let mut rest = bytes;
    let mut sink = [0; 65536];
    while !rest.is_empty() {
        // In several goes, so that what the controller asks for can be answered.
        let piece = rest.len().min(goes);
        match pipe.write(&rest[..piece]) {
            Ok(n) => rest = &rest[n..],
            Err(_) => break,
        }
        pipe.target.turn_until_quiet();
        while pipe.stream.readable() && pipe.read(&mut sink).is_ok_and(|n| n > 0) {}
    }
    pipe.target.turn_until_quiet();
    // Half of the hosts wait for what they asked for, the others leave at once.
    if bytes.len().is_multiple_of(2) {
        pipe.target.wait_until_idle();
    }
    while pipe.stream.readable() && pipe.read(&mut sink).is_ok_and(|n| n > 0) {}
}

fn capsule(sqe: &Sqe, data: &[u8]) -> Vec<u8> {
    let mut out = [0; MAX_HEADER_BYTES];
    let len = CapsuleCmd { sqe: *sqe, data_bytes: data.len() as u32 }.encode(&Framing::default(), &mut out);
    [&out[..len], data].concat()
}

/// A sound beginning: ICReq, Connect, and for an admin queue CC.EN.
fn opening(qid: u16, cntlid: ControllerId) -> Vec<u8> {
    let mut out = [0; MAX_HEADER_BYTES];
    let icreq = IcReq { pfv: PFV_1_0, hpda: DataAlignment::NONE, digests: Digests::NONE, maxr2t: 1 };
    let len = icreq.encode(&mut out);
    let mut bytes = out[..len].to_vec();
    let connect = Connect {
        qid: QueueId(qid),
        sq_entries: 128,
        disable_sq_flow_control: true,
        individual_io_queue_deletion: false,
        kato_ms: 0,
    };
    let mut data = [0; CONNECT_DATA_LEN];
    connect_data(SUBSYSTEM, HOST, cntlid).encode(&mut data);
    bytes.extend(capsule(&connect.sqe(CommandId(1)), &data));
    if qid == 0 {
        let enable = PropertySet::of(Property::Cc, Cc::enabled().0.into());
        bytes.extend(capsule(&enable.sqe(CommandId(2)), &[]));
    }
    bytes
}

/// A command with random fields, most of them likely to mean something, and the data that it may be asked for.
fn random_command(random: &mut Random, admin: bool) -> Vec<u8> {
    let mut bytes: [u8; 64] = random.bytes(64).try_into().unwrap();
    let opcodes: &[u8] =
        if admin { &[0x02, 0x06, 0x08, 0x09, 0x0A, 0x0C, 0x18, 0x7F] } else { &[0, 1, 1, 1, 2, 2, 5, 8, 9, 0x7F] };
    let blocks = 1 + random.below(32);
    if random.below(8) > 0 {
        bytes[0] = opcodes[random.below(opcodes.len())];
        bytes[1] = 0x40;
        bytes[4..8].copy_from_slice(
            &[[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0], [0xFF; 4]][random.below(6)],
        );
        bytes[40..48].copy_from_slice(&(random.below(120) as u64).to_le_bytes());
        bytes[48..52].copy_from_slice(&(blocks as u32 - 1).to_le_bytes());
    }
    let mut sqe = Sqe::from_bytes(bytes);
    // Mostly as long as it should be.
    let length = if random.below(4) > 0 { blocks * 512 } else { random.below(33) * 512 };
    match random.below(4) {
        0 => {
            sqe.set_sgl(SglDescriptor::InCapsule { offset: 0, length: length as u32 });
            let data = random.bytes(length);
            capsule(&sqe, &data)
        }
        1 | 2 => {
            sqe.set_sgl(SglDescriptor::Transport { length: length as u32 });
            let mut bytes = capsule(&sqe, &[]);
            let takes_data = matches!(sqe.opcode(), 0x01 | 0x05 | 0x09);
            if random.below(4) == 0 || (takes_data && !admin) {
                // Perhaps it is asked for its data, under the first transfer tag.
                let pdu = DataPdu {
                    cccid: sqe.cid(),
                    ttag: TransferTag(0),
                    datao: 0,
                    datal: length as u32,
                    end: DataEnd::Last,
                };
                let mut out = [0; MAX_HEADER_BYTES];
                let len = pdu.encode_h2c(&Framing::default(), &mut out);
                bytes.extend_from_slice(&out[..len]);
                bytes.extend(random.bytes(length));
            }
            bytes
        }
        _ => capsule(&sqe, &[]),
    }
}

#[test]
fn p14_random_bytes_and_broken_conversations_hurt_nobody_else() {
    let target = Target::new();
    target.offer(1, &[9; 64 << 10]);
    let (_admin, cntlid) = target.admin(0);
    let mut bystander = target.io(cntlid, 1, Digests::NONE, DataAlignment::NONE);
    for seed in 0..4000_u64 {
        let mut random = Random(seed);
        let admin = random.below(2) == 0;
        let mut bytes = match random.below(4) {
            0 => {
                let len = random.below(4000);
                random.bytes(len)
            }
            _ if admin => opening(0, ControllerId::DYNAMIC),
            _ => opening(2 + random.below(100) as u16, cntlid),
        };
        for _ in 0..random.below(12) {
            bytes.extend(random_command(&mut random, admin));
        }
        for _ in 0..random.below(4) {
            match random.below(3) {
                0 => {
                    let at = random.below(bytes.len().max(1));
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << random.below(8);
                    }
                }
                1 => bytes.truncate(random.below(bytes.len() + 1)),
                _ => {
                    // An H2CData or some other PDU out of the blue.
                    let mut header = random.bytes(24);
                    header[0] = [0x02, 0x06, 0x00, 0x07][random.below(4)];
                    header[1] = random.below(8) as u8;
                    header[2] = 24;
                    header[3] = 24;
                    header[4..8].copy_from_slice(&(24 + random.below(600) as u32).to_le_bytes());
                    bytes.extend(header);
                }
            }
        }
        let mut pipe = target.pipe();
        let goes = random.size(14);
        pour(&mut pipe, &bytes, goes);
        drop(pipe);
        target.turn_until_quiet();
        if seed % 50 == 0 {
            assert_eq!(bystander.read(1, 0, 1, 512).map(|data| data.len()), Ok(512), "seed {seed}");
        }
    }
    assert!(bystander.read(1, 0, 128, 512).is_ok());
    target.with(|sim| {
        let totals = sim.subsystem.namespaces.snapshot().1[&nvferry_wire::Nsid(1)].status().totals;
        let (faults, done) = (sim.subsystem.faults.totals(), totals.reads + totals.writes + totals.flushes);
        assert!(done > 100 && totals.written_bytes > 100_000 && totals.errors.total() > 100, "{totals:?}");
        assert!(faults.protocol_errors > 100, "{faults:?}");
        assert_eq!(sim.worker.core.data_pool.stats().in_use_bytes, 0, "buffers leaked");
        assert_eq!(sim.worker.core.capsule_pool.stats().in_use_bytes, 0, "buffers leaked");
        assert_eq!(sim.worker.busy(), 0, "commands leaked");
        assert_eq!(sim.worker.len(), 2, "only the bystander's connections are left");
        assert_eq!(sim.subsystem.controllers().len(), 1, "controllers leaked");
    });
}

#[test]
fn p14_more_commands_than_the_queue_has_entries_end_the_connection() {
    use nvferry_io::engine::{Fault, FaultRule};
    let target = Target::new();
    target.offer(1, &[9; 4096]);
    target.with(|sim| sim.faults.add_rule(FaultRule::always(Fault::Stall)));
    let (mut admin, cntlid) = target.admin(0);
    let mut io = Host::plain(target.pipe());
    io.connect_io(cntlid, 1, 2, true);
    for _ in 0..3 {
        let sqe = io.read_sqe(1, 0, 1, 512);
        io.send_command(&sqe, &[]);
    }
    let last = io.receive().unwrap().pdu;
    assert!(matches!(last, nvferry_wire::pdu::Pdu::C2hTermReq(_)), "{last:?}");
    assert!(admin.csts().ready());
    target.with(|sim| sim.faults.release_stalled());
}
