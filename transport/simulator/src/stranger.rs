//! A host other than ours, which does what ours never does: it flushes, and writes what must be durable at once.
//!
//! It has one command under way at a time, and waits for it. What goes wrong ends its connections; it comes again later.

use crate::model::{self, Mismatch, WriteId};
use crate::net::HostEnd;
use crate::plan::SECOND;
use crate::random::{Random, mix};
use crate::world::{Event, Sim};
use nvferry_io::Stream;
use nvferry_io::simulation::{Socket, World};
use nvferry_io::vector::IoVecs;
use nvferry_wire::fabrics::{CONNECT_DATA_LEN, Cc, Connect, ConnectData, ConnectResult, Property, PropertySet};
use nvferry_wire::nvm::{Flush, NvmOpcode, ReadWrite};
use nvferry_wire::pdu::{
    COMMON_HEADER_LEN, CapsuleCmd, CommonHeader, DataAlignment, Digests, Framing, IcReq, MAX_HEADER_BYTES, PFV_1_0,
    Pdu, PduRules, Role,
};
use nvferry_wire::{BlockCount, CommandId, ControllerId, HostId, Lba, Nqn, Nsid, QueueId, SglDescriptor, Sqe, Status};
use std::io;

/// Its name.
pub(crate) const NAME: &str = "nqn.2016-06.io.mc:stranger";
/// How long it waits for anything.
const PATIENCE: u64 = 3 * SECOND;

/// One of its connections.
struct Line<'s> {
    sim: &'s Sim,
    end: HostEnd,
    rules: PduRules,
    framing: Framing,
    cid: u16,
}

impl<'s> Line<'s> {
    /// Connects to a target.
    fn open(sim: &'s Sim, target: usize) -> io::Result<Self> {
        let address = sim.targets.borrow()[target].address;
        let (rules, framing) = (PduRules::initial(Role::Host), Framing::default());
        let mut line = Self { sim, end: sim.connect_stranger(address), rules, framing, cid: 0 };
        loop {
            if line.end.is_connected()? {
                break;
            }
            line.wait(|end| end.is_connected().unwrap_or(true))?;
        }
        let mut out = [0; MAX_HEADER_BYTES];
        let request = IcReq { pfv: PFV_1_0, hpda: DataAlignment::NONE, digests: Digests::NONE, maxr2t: 1 };
        let len = request.encode(&mut out);
        line.send(&out[..len])?;
        let (Pdu::IcResp(response), _) = line.receive()? else { return Err(io::ErrorKind::InvalidData.into()) };
        line.framing = Framing { digests: response.digests, alignment: response.cpda };
        line.rules = PduRules {
            receiver: Role::Host,
            framing: Framing::default(),
            max_capsule_data_bytes: 0,
            max_data_bytes: 1 << 20,
        };
        Ok(line)
    }

    fn wait(&mut self, mut is_over: impl FnMut(&mut HostEnd) -> bool) -> io::Result<()> {
        let mut over = false;
        self.sim.wait(self.sim.at(self.sim.now_ns() + PATIENCE), &mut || {
            over = is_over(&mut self.end);
            over
        });
        if over { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut vecs = IoVecs::new();
            let mut list = vecs.gather();
            list.push(bytes);
            match self.end.send(&list) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(|end| end.is_writable())?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive_exactly(&mut self, into: &mut [u8]) -> io::Result<()> {
        let mut have = 0;
        while have < into.len() {
            let mut vecs = IoVecs::new();
            let mut list = vecs.scatter();
            list.push(&mut into[have..]);
            match self.end.recv(&mut list) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(received) => have += received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(|end| end.is_readable())?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<(Pdu, Vec<u8>)> {
        let mut header = vec![0; COMMON_HEADER_LEN];
        self.receive_exactly(&mut header)?;
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
        let mut common = [0; COMMON_HEADER_LEN];
        common.copy_from_slice(&header);
        let common = CommonHeader::decode(&common, &self.rules).map_err(invalid)?;
        let layout = common.layout();
        header.resize(layout.data_offset(), 0);
        self.receive_exactly(&mut header[COMMON_HEADER_LEN..])?;
        let mut data = vec![0; layout.data_bytes as usize];
        self.receive_exactly(&mut data)?;
        Ok((Pdu::decode(&common, &header).map_err(invalid)?, data))
    }

    /// Executes a command, with data in its capsule if there is any. The status, the result, and the data that came.
    fn execute(&mut self, mut sqe: Sqe, data: &[u8]) -> io::Result<(Status, u64, Vec<u8>)> {
        self.cid = self.cid.wrapping_add(1);
        sqe.set_cid(CommandId(self.cid));
        if !data.is_empty() {
            sqe.set_sgl(SglDescriptor::InCapsule { offset: 0, length: data.len() as u32 });
        }
        let mut out = [0; MAX_HEADER_BYTES];
        let len = CapsuleCmd { sqe, data_bytes: data.len() as u32 }.encode(&self.framing, &mut out);
        self.send(&out[..len])?;
        self.send(data)?;
        let mut got = Vec::new();
        loop {
            match self.receive()? {
                (Pdu::C2hData(_), part) => got.extend(part),
                (Pdu::CapsuleResp(response), _) => return Ok((response.cqe.status, response.cqe.result, got)),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    /// As [`Self::execute`], where only success will do.
    fn succeed(&mut self, sqe: Sqe, data: &[u8]) -> io::Result<u64> {
        let (status, result, _) = self.execute(sqe, data)?;
        if status.is_success() { Ok(result) } else { Err(io::Error::other(status.to_string())) }
    }

    /// Connects a queue.
    fn connect(&mut self, subnqn: &Nqn, cntlid: ControllerId, qid: u16) -> io::Result<ControllerId> {
        let connect = Connect {
            qid: QueueId(qid),
            sq_entries: 32,
            disable_sq_flow_control: false,
            individual_io_queue_deletion: false,
            kato_ms: 0,
        };
        let hostnqn = Nqn::new(NAME).map_err(io::Error::other)?;
        let mut bytes = [0; CONNECT_DATA_LEN];
        ConnectData { hostid: HostId([0x77; 16]), cntlid, subnqn: subnqn.clone(), hostnqn }.encode(&mut bytes);
        Ok(ConnectResult::from_result(self.succeed(connect.sqe(CommandId(0)), &bytes)?).cntlid)
    }
}

impl Sim {
    /// It comes, so many times more.
    pub(crate) fn stranger(&self, times: u64) {
        let (mut random, target, pause) = {
            let random = &mut *self.random.borrow_mut();
            (random.fork(), random.below(self.plan.targets as u64) as usize, random.size(SECOND / 2))
        };
        if let Err(error) = self.visit(&mut random, target) {
            tracing::debug!(now = self.now_ns(), %error, "a stranger's visit has ended");
        }
        if times > 1 && !self.healed.get() {
            self.schedule(pause, Event::Stranger { times: times - 1 });
        }
    }

    fn visit(&self, random: &mut Random, target: usize) -> io::Result<()> {
        let subnqn = self.targets.borrow()[target].subnqn.clone();
        let mut admin = Line::open(self, target)?;
        let cntlid = admin.connect(&subnqn, ControllerId::DYNAMIC, 0)?;
        admin.succeed(PropertySet::of(Property::Cc, Cc::enabled().0.into()).sqe(CommandId(0)), &[])?;
        let mut line = Line::open(self, target)?;
        line.connect(&subnqn, cntlid, 1)?;
        for _ in 0..random.size(16) {
            let in_target = random.below(self.plan.files.len() as u64) as usize;
            match random.below(4) {
                0 => self.flush(random, &mut line, target, in_target)?,
                1 => self.look_at(random, &mut line, target, in_target)?,
                _ => self.write(random, &mut line, target, in_target)?,
            }
        }
        Ok(())
    }

    /// Some blocks of its own part of a file, if it has any: the first, how many, and the range of bytes.
    fn some_blocks(&self, random: &mut Random, in_target: usize) -> Option<(u64, u64, std::ops::Range<u64>)> {
        let own = self.plan.part_of(self.plan.hosts, in_target);
        let block = u64::from(self.plan.block_bytes);
        let blocks = (own.end - own.start).div_ceil(block);
        if blocks == 0 {
            return None;
        }
        let count = random.size(blocks.min(4));
        let first = own.start / block + random.below(blocks - count + 1);
        Some((first, count, first * block..((first + count) * block).min(own.end)))
    }

    fn write(&self, random: &mut Random, line: &mut Line<'_>, target: usize, in_target: usize) -> io::Result<()> {
        let Some((first, count, range)) = self.some_blocks(random, in_target) else { return Ok(()) };
        let (file, write, since) = (target * self.plan.files.len() + in_target, self.next_write(), self.now_ns());
        let mut command = ReadWrite::new(Nsid(in_target as u32 + 1), Lba(first), BlockCount(count as u32));
        command.fua = random.chance(30);
        let mut data = vec![0; (count * u64::from(self.plan.block_bytes)) as usize];
        model::fill(file, write, range.start, &mut data);
        self.models.borrow_mut()[file].begin(write, range.start, range.end);
        let sqe = command.sqe(NvmOpcode::Write, CommandId(0), SglDescriptor::Transport { length: 0 });
        let ended = line.execute(sqe, &data);
        let done = ended.as_ref().is_ok_and(|(status, ..)| status.is_success());
        self.written(file, write, &range, since, done && !self.lost_power_since(target, since), command.fua);
        let status = ended?.0;
        tracing::debug!(now = self.now_ns(), file, write, ?range, %status, fua = command.fua, "a stranger wrote");
        Ok(())
    }

    fn written(&self, file: usize, write: WriteId, range: &std::ops::Range<u64>, since: u64, done: bool, fua: bool) {
        self.note(mix(u64::from(write) << 1 | u64::from(done)));
        let model = &mut self.models.borrow_mut()[file];
        if !done {
            return model.doubt(write, range.start, range.end, since);
        }
        model.acknowledge(write, range.start, range.end, since, self.now_ns());
        if fua {
            model.is_durable(range.start, range.end, self.now_ns() + 1);
        }
    }

    fn flush(&self, random: &mut Random, line: &mut Line<'_>, target: usize, in_target: usize) -> io::Result<()> {
        // Of a namespace that goes and comes meanwhile it would not be known whether it was among them.
        let all = random.chance(30) && self.plan.namespaces == 0;
        let nsid = if all { Nsid::ALL } else { Nsid(in_target as u32 + 1) };
        let since = self.now_ns();
        let (status, ..) = line.execute(Flush { nsid }.sqe(CommandId(0)), &[])?;
        tracing::debug!(now = self.now_ns(), target, %nsid, %status, "a stranger flushed");
        if status.is_success() {
            let files = self.plan.files.len();
            let flushed = if all { 0..files } else { in_target..in_target + 1 };
            for at in flushed {
                self.models.borrow_mut()[target * files + at].is_durable(0, self.plan.files[at], since);
            }
        }
        Ok(())
    }

    fn look_at(&self, random: &mut Random, line: &mut Line<'_>, target: usize, in_target: usize) -> io::Result<()> {
        let Some((first, count, range)) = self.some_blocks(random, in_target) else { return Ok(()) };
        let (file, since) = (target * self.plan.files.len() + in_target, self.now_ns());
        let command = ReadWrite::new(Nsid(in_target as u32 + 1), Lba(first), BlockCount(count as u32));
        let length = count as u32 * self.plan.block_bytes;
        let sqe = command.sqe(NvmOpcode::Read, CommandId(0), SglDescriptor::Transport { length });
        let (status, _, data) = line.execute(sqe, &[])?;
        if status.is_success() {
            let read = data.get(..(range.end - range.start) as usize).unwrap_or_default();
            if read.is_empty() {
                self.fail(format!("a read of {length} bytes that succeeded brought {}", data.len()));
            } else if let Err(Mismatch { offset, expected }) =
                self.models.borrow().get(file).map_or(Ok(()), |model| model.check(range.start, read, since))
            {
                self.fail(format!("a stranger's read of file {file}: the bytes at {offset} are not of {expected}"));
            }
        }
        Ok(())
    }
}
