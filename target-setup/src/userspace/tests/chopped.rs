//! Streams cut into pieces at any byte: every command does the same as on an uncut one, checked against a plain model.

use super::harness::{OnFailure, Random, Target};
use super::host::Way;
use super::straight::AtOnce;
use nvferry_io::engine::FaultControl;
use nvferry_wire::pdu::{DataAlignment, Digests};
use nvferry_wire::{SglDescriptor, Sqe};

const BLOCK: usize = 512;

/// One conversation: writes and reads of random sizes, by all ways, over a stream that is cut at random.
fn converse(seed: u64) {
    let mut random = Random(seed);
    let target =
        if random.below(2) == 0 { Target::new() } else { Target::on(Box::new(AtOnce::new(&FaultControl::new(0)).0)) };
    // No multiple of the block: the last one is only partly there.
    let size = 700_000 + random.below(2 * BLOCK);
    let mut model = random.bytes(size);
    target.offer(1, &model);
    let (_admin, cntlid) = target.admin(0);
    let digests = Digests { header: random.below(2) == 0, data: random.below(2) == 0 };
    let hpda = DataAlignment::from_wire(random.below(32) as u8).unwrap();
    let mut io = target.io(cntlid, 1, digests, hpda);
    let blocks = size.div_ceil(BLOCK);
    model.resize(blocks * BLOCK, 0);

    for step in 0..12 {
        let count = random.size(10).min(blocks);
        let first = random.below(blocks - count + 1);
        // Down to single bytes, but in no more than some thousand pieces.
        io.io.stream.outgoing().set_max_bytes_per_call(random.size(17) + count / 64);
        io.io.stream.incoming().set_max_bytes_per_call(random.size(17) + count / 64);
        let range = first * BLOCK..(first + count) * BLOCK;
        let what = format!("seed {seed}, step {step}, blocks {first}+{count}, {digests:?}, {hpda:?}");
        let _told = OnFailure(what.clone());
        match random.below(3) {
            0 => {
                let got = io.read(1, first as u64, count as u32, BLOCK as u32).unwrap();
                assert!(got == model[range], "{what}: a read brought other bytes than were written");
            }
            1 if count * BLOCK <= 16 << 10 => {
                let data = random.bytes(count * BLOCK);
                // In-capsule data may begin anywhere in the capsule.
                let before = random.below(((16 << 10) - data.len()) / 4 + 1) * 4;
                let mut sqe: Sqe = io.write_sqe(1, first as u64, count as u32);
                sqe.set_sgl(SglDescriptor::InCapsule { offset: before as u64, length: data.len() as u32 });
                let capsule = [vec![0xEE; before], data.clone()].concat();
                io.send_command(&sqe, &capsule);
                assert!(io.finish(sqe.cid(), &[], usize::MAX).status().is_success(), "{what}");
                model[range].copy_from_slice(&data);
            }
            _ => {
                let data = random.bytes(count * BLOCK);
                let way = Way::Asked(1 + random.below(data.len()));
                assert!(io.write(1, first as u64, &data, BLOCK as u32, way).is_success(), "{what}");
                model[range].copy_from_slice(&data);
            }
        }
        // What is written beyond the file's end is dropped.
        model[size..].fill(0);
    }
    io.io.stream.outgoing().set_max_bytes_per_call(usize::MAX);
    io.io.stream.incoming().set_max_bytes_per_call(usize::MAX);
    let file = target.file(1);
    assert_eq!(file.len(), size, "seed {seed}: the file must not grow");
    assert!(file == model[..size], "seed {seed}: the file differs from the model");
    target.with(|sim| {
        assert_eq!(sim.worker.core.data_pool.stats().in_use_bytes, 0, "seed {seed}: buffers leaked");
        assert_eq!(sim.worker.core.capsule_pool.stats().in_use_bytes, 0, "seed {seed}: buffers leaked");
        assert_eq!(sim.worker.busy(), 0, "seed {seed}: slots leaked");
    });
}

#[test]
fn p05_streams_cut_at_any_byte_carry_the_same() {
    for seed in 0..60 {
        converse(seed);
    }
}
