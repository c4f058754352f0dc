//! The operations whose instructions are counted. Each runs its operation as often as it is told.

use crate::data_path::{self, target_commands};
use anyhow::{Context, Result};
use nvferry_engine::null::NullTransportFactory;
use nvferry_engine::{Batch, Deadline, FileBufferId, Memory, Request, SegmentId, TransferEngine};
use nvferry_io::pool::{BufferPool, PoolConfig};
use nvferry_wire::nvm::{NvmOpcode, ReadWrite};
use nvferry_wire::pdu::{
    COMMON_HEADER_LEN, CapsuleCmd, CapsuleResp, CommonHeader, DataAlignment, DataEnd, DataPdu, Digests, Framing,
    MAX_HEADER_BYTES, Pdu, PduRules, R2t, Role,
};
use nvferry_wire::{BlockCount, CommandId, Cqe, Lba, Nsid, SglDescriptor, TransferTag, digest};
use std::hint::black_box;
use std::time::Duration;

/// Something that is counted.
pub(crate) struct Scenario {
    /// Its name in the baseline.
    pub(crate) name: &'static str,
    /// How often the operation runs in the shorter of the two runs: enough that nothing else shows.
    pub(crate) operations: u64,
    /// Runs it so often.
    pub(crate) run: fn(u64) -> Result<()>,
}

/// All of them.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "wire: encode a read command", operations: 20_000, run: |n| encode_command(n, Digests::NONE) },
    Scenario { name: "wire: the same, header digest", operations: 20_000, run: |n| encode_command(n, Digests::BOTH) },
    Scenario { name: "wire: decode a read command", operations: 20_000, run: decode_command },
    Scenario { name: "wire: encode and decode C2HData", operations: 20_000, run: c2h_data },
    Scenario { name: "wire: encode and decode R2T", operations: 20_000, run: r2t },
    Scenario { name: "wire: encode and decode a response", operations: 20_000, run: response },
    Scenario { name: "digest: CRC32C of 4 KiB", operations: 1000, run: |n| crc(n, 4096) },
    Scenario { name: "digest: CRC32C of 64 KiB", operations: 200, run: |n| crc(n, 65536) },
    Scenario { name: "pool: take and return 4 KiB", operations: 5000, run: pool },
    Scenario { name: "engine: submit a 64 KiB request", operations: 8192, run: |n| submit(n, 65536, false) },
    Scenario { name: "engine: submit in 16 slices", operations: 1024, run: |n| submit(n, 16 << 20, false) },
    Scenario { name: "engine: submit and collect", operations: 8192, run: |n| submit(n, 65536, true) },
    Scenario { name: "host: a 512-byte read, slice to end", operations: 2048, run: data_path::host_reads },
    Scenario {
        name: "target: a 512-byte read command",
        operations: 2048,
        run: |n| target_commands(n, NvmOpcode::Read),
    },
    Scenario {
        name: "target: a 512-byte write command",
        operations: 2048,
        run: |n| target_commands(n, NvmOpcode::Write),
    },
];

const CID: CommandId = CommandId(7);

fn framing(digests: Digests) -> Framing {
    Framing { digests, alignment: DataAlignment::NONE }
}

fn rules(receiver: Role) -> PduRules {
    PduRules { receiver, framing: framing(Digests::NONE), max_capsule_data_bytes: 16384, max_data_bytes: 1 << 20 }
}

fn read_command(n: u64) -> CapsuleCmd {
    let command = ReadWrite::new(Nsid(1), Lba(n * 128), BlockCount(128));
    CapsuleCmd { sqe: command.sqe(NvmOpcode::Read, CID, SglDescriptor::Transport { length: 65536 }), data_bytes: 0 }
}

fn encode_command(operations: u64, digests: Digests) -> Result<()> {
    let framing = framing(digests);
    let mut out = [0; MAX_HEADER_BYTES];
    for n in 0..operations {
        black_box(read_command(black_box(n)).encode(&framing, &mut out));
        black_box(&out);
    }
    Ok(())
}

/// Decodes a PDU as a receiver does: the common header, then the rest.
fn decode(bytes: &[u8; MAX_HEADER_BYTES], rules: &PduRules) -> Result<Pdu> {
    let common: &[u8; COMMON_HEADER_LEN] = bytes.first_chunk().context("a header is longer")?;
    let common = CommonHeader::decode(common, rules)?;
    Ok(Pdu::decode(&common, bytes)?)
}

fn decode_command(operations: u64) -> Result<()> {
    let (rules, mut out) = (rules(Role::Controller), [0; MAX_HEADER_BYTES]);
    read_command(1).encode(&framing(Digests::NONE), &mut out);
    for _ in 0..operations {
        if let Pdu::CapsuleCmd(command) = decode(black_box(&out), &rules)? {
            black_box(ReadWrite::decode(&command.sqe));
        }
    }
    Ok(())
}

fn c2h_data(operations: u64) -> Result<()> {
    let (rules, framing) = (rules(Role::Host), framing(Digests::NONE));
    let mut out = [0; MAX_HEADER_BYTES];
    for _ in 0..operations {
        let pdu = DataPdu {
            cccid: black_box(CID),
            ttag: TransferTag(0),
            datao: 0,
            datal: 65536,
            end: DataEnd::LastWithSuccess,
        };
        pdu.encode_c2h(&framing, &mut out);
        black_box(decode(black_box(&out), &rules)?);
    }
    Ok(())
}

fn r2t(operations: u64) -> Result<()> {
    let (rules, framing) = (rules(Role::Host), framing(Digests::NONE));
    let mut out = [0; MAX_HEADER_BYTES];
    for _ in 0..operations {
        R2t { cccid: black_box(CID), ttag: TransferTag(3), r2to: 0, r2tl: 65536 }.encode(&framing, &mut out);
        black_box(decode(black_box(&out), &rules)?);
    }
    Ok(())
}

fn response(operations: u64) -> Result<()> {
    let (rules, framing) = (rules(Role::Host), framing(Digests::NONE));
    let mut out = [0; MAX_HEADER_BYTES];
    for n in 0..operations {
        CapsuleResp { cqe: Cqe::success(CID, black_box(n as u16), 0) }.encode(&framing, &mut out);
        black_box(decode(black_box(&out), &rules)?);
    }
    Ok(())
}

fn crc(operations: u64, len: usize) -> Result<()> {
    let bytes = vec![0x5a; len];
    for _ in 0..operations {
        black_box(digest::crc32c(black_box(&bytes)));
    }
    Ok(())
}

fn pool(operations: u64) -> Result<()> {
    let pool = BufferPool::new(PoolConfig::default());
    for _ in 0..operations {
        black_box(pool.get(black_box(4096)));
    }
    Ok(())
}

/// An engine whose transport completes every slice at once, one file of it, and memory.
struct Rig {
    engine: TransferEngine,
    segment: SegmentId,
    file: FileBufferId,
    memory: Memory,
}

impl Rig {
    fn new(memory_bytes: usize) -> Result<Self> {
        let engine = TransferEngine::builder()
            .metadata("memory:instructions")
            .server_name("127.0.0.1:8081")
            .transport(NullTransportFactory::default())
            .build()?;
        engine.install_transport("null", "")?;
        let file = engine.register_local_file("/no/such/file", 1 << 40)?;
        let segment = engine.open_segment("127.0.0.1:8081")?;
        let memory = engine.register_memory(vec![0; memory_bytes])?;
        Ok(Self { engine, segment, file, memory })
    }
}

/// Requests of so many bytes, 256 at a time; with `collect`, every status is asked for as well.
fn submit(operations: u64, request_bytes: usize, collect: bool) -> Result<()> {
    const TOGETHER: u64 = 256;
    let rig = Rig::new(request_bytes)?;
    let mut batch: Batch = rig.engine.batch(TOGETHER as usize)?;
    for round in 0..operations / TOGETHER {
        let requests: [Request<'_>; TOGETHER as usize] = std::array::from_fn(|n| {
            let offset = (round * TOGETHER + n as u64) % 1024 * request_bytes as u64;
            Request::read(&rig.memory, 0..request_bytes, rig.segment, rig.file, offset)
        });
        batch.submit(black_box(&requests))?;
        batch.wait(Deadline::after(Duration::from_secs(60)))?;
        if collect {
            for request in 0..TOGETHER as usize {
                black_box(batch.status(request)?);
            }
        }
        batch.reset()?;
    }
    Ok(())
}
