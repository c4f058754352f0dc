//! What hosts say: PDUs that are right but for what the input makes of them.

use super::{Attack, HOST, SUBSYSTEM};
use crate::input::Input;
use nvferry_wire::digest::crc32c;
use nvferry_wire::fabrics::{CONNECT_DATA_LEN, Cc, Connect, ConnectData, Property, PropertyGet, PropertySet};
use nvferry_wire::nqn;
use nvferry_wire::nvm::ReadWrite;
use nvferry_wire::pdu::{
    CapsuleCmd, DataAlignment, DataEnd, DataPdu, Digests, Framing, IcReq, MAX_HEADER_BYTES, PFV_1_0, R2t, Role,
    TERM_REQ_MAX_LEN, TermReq,
};
use nvferry_wire::{BlockCount, ControllerId, HostId, Lba, Nqn, Nsid, QueueId, SglDescriptor, Sqe, TransferTag};

impl Attack {
    fn framing(&self) -> Framing {
        self.lines.get(self.line).map(|line| line.framing).unwrap_or_default()
    }

    /// Says a command, with its capsule's data, and a wrong digest where that is wanted.
    fn say_capsule(&mut self, sqe: Sqe, data: &[u8], corrupt: bool) {
        let framing = self.framing();
        let mut out = [0; MAX_HEADER_BYTES];
        let len = CapsuleCmd { sqe, data_bytes: data.len() as u32 }.encode(&framing, &mut out);
        let mut bytes = out[..len].to_vec();
        append(&mut bytes, data, &framing, corrupt);
        self.say(&bytes);
    }

    fn sqe(&mut self, opcode: u8, nsid: u32) -> Sqe {
        let cid = self.lines.get_mut(self.line).map_or(nvferry_wire::CommandId(0), super::Line::cid);
        Sqe::new(opcode, cid, Nsid(nsid))
    }

    pub(super) fn say_opening(&mut self, input: &mut Input<'_>) {
        let digests = Digests::from_wire(input.u8());
        let hpda = DataAlignment::from_wire(input.u8() % 32).unwrap_or_default();
        let mut out = [0; MAX_HEADER_BYTES];
        let len = IcReq { pfv: PFV_1_0, hpda, digests, maxr2t: 1 + u32::from(input.u8()) }.encode(&mut out);
        // A byte of it that is not as it should be, now and then.
        if input.u8() & 3 == 3 {
            out[usize::from(input.u8() % 16)] = input.u8();
        }
        self.say(&out[..len]);
    }

    pub(super) fn say_connect(&mut self, input: &mut Input<'_>) {
        let qid = input.pick(&[0, 1, 2, 3, 4, 128, 129, 0xFFFF]);
        let entries = input.pick(&[128, 2, 1024, 16, 1, 1025, 65_536]);
        let kind = input.u8();
        let cntlid = match (kind & 7, qid) {
            (0..=4, 0) => ControllerId::DYNAMIC,
            (0..=4, _) => self.controller,
            _ => ControllerId(input.u16()),
        };
        let subnqn = match kind >> 3 & 7 {
            6 => nqn::DISCOVERY_NQN,
            7 => "nqn.2016-06.io.mc:another",
            _ => SUBSYSTEM,
        };
        let flags = input.u8();
        self.connect(qid, entries, cntlid, subnqn, flags, u32::from(input.u8()) * 500);
    }

    fn connect(&mut self, qid: u16, entries: u32, cntlid: ControllerId, subnqn: &str, flags: u8, kato_ms: u32) {
        let connect = Connect {
            qid: QueueId(qid),
            sq_entries: entries,
            disable_sq_flow_control: flags & 1 == 0,
            individual_io_queue_deletion: flags & 2 != 0,
            kato_ms,
        };
        let name = |name| Nqn::new(name).expect("a name");
        let hostid = HostId([if flags & 0x30 == 0x30 { 0 } else { 5 }; 16]);
        let hostnqn = name(if flags & 0xC0 == 0xC0 { "nqn.2016-06.io.mc:stranger" } else { HOST });
        let data = ConnectData { hostid, cntlid, subnqn: name(subnqn), hostnqn };
        let mut bytes = [0; CONNECT_DATA_LEN];
        data.encode(&mut bytes);
        let cid = self.sqe(0, 0).cid();
        let mut sqe = connect.sqe(cid);
        let length = CONNECT_DATA_LEN as u32;
        if flags & 4 == 0 {
            sqe.set_sgl(SglDescriptor::InCapsule { offset: 0, length });
            self.say_capsule(sqe, &bytes, flags & 8 != 0);
        } else {
            sqe.set_sgl(SglDescriptor::Transport { length });
            self.say_capsule(sqe, &[], false);
            // Its tag is the first.
            let r2t = R2t { cccid: cid, ttag: TransferTag(0), r2to: 0, r2tl: length };
            self.say_h2c(&r2t, 0, &bytes, DataEnd::Last, flags & 8 != 0);
        }
    }

    pub(super) fn say_property(&mut self, input: &mut Input<'_>) {
        let cid = self.sqe(0, 0).cid();
        let sqe = match input.u8() % 8 {
            0 => PropertySet::of(Property::Cc, Cc::enabled().0.into()).sqe(cid),
            1 => PropertySet::of(Property::Cc, 0).sqe(cid),
            2 => PropertySet::of(Property::Cc, input.u32().into()).sqe(cid),
            3 => PropertyGet::of(input.pick(&[Property::Cap, Property::Vs, Property::Cc, Property::Csts])).sqe(cid),
            4 => PropertyGet::of(input.pick(&[Property::Nssr, Property::Crto])).sqe(cid),
            _ => {
                let mut sqe = PropertySet::of(Property::Cc, input.u64()).sqe(cid);
                sqe.as_bytes_mut()[40..48].copy_from_slice(&input.u64().to_le_bytes());
                sqe
            }
        };
        self.say_capsule(sqe, &[], false);
    }

    pub(super) fn say_admin(&mut self, input: &mut Input<'_>) {
        const OPCODES: [u8; 12] = [0x06, 0x02, 0x0C, 0x09, 0x0A, 0x08, 0x18, 0x00, 0x01, 0x10, 0x80, 0xFF];
        let opcode = input.pick(&OPCODES);
        let nsid = input.pick(&[0, 1, 2, 3, 4, u32::MAX]);
        let mut sqe = self.sqe(opcode, nsid);
        let mut dword = |at: usize, value: u32| sqe.as_bytes_mut()[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let (cdw10, cdw11) = (input.u16(), input.u8());
        let mut length = input.pick(&[4096, 4096, 512, 16, 1 << 20, 0]);
        dword(40, cdw10.into());
        dword(44, cdw11.into());
        if opcode == 0x02 {
            // As many dwords as the buffer has.
            let numd = (length / 4_u32).saturating_sub(1);
            dword(40, u32::from(cdw10 & 0x80FF) | numd << 16);
            dword(44, numd >> 16);
            dword(48, input.u8().into());
        }
        if input.u8() & 15 == 15 {
            length = input.u32();
        }
        sqe.set_sgl(SglDescriptor::Transport { length });
        self.say_capsule(sqe, &[], false);
    }

    pub(super) fn say_io(&mut self, input: &mut Input<'_>) {
        let opcode = input.pick(&[2, 1, 1, 5, 8, 9, 0, 2, 4, 0x0C, 0x19, 0x77]);
        let nsid = input.pick(&[1, 1, 3, 2, 4, 0, u32::MAX]);
        let slba = match input.u8() {
            edge @ 250..=255 => [136, 137, 15, u64::MAX, u64::MAX - 1, 1 << 55][usize::from(edge - 250)],
            low => low.into(),
        };
        let blocks = 1 + u32::from(input.pick(&[0_u16, 1, 7, 15, 31, 136, 200, 4095, 0xFFFF]));
        let flags = input.u8();
        let cid = self.sqe(0, 0).cid();
        let mut sqe = Sqe::new(opcode, cid, Nsid(nsid));
        let place = ReadWrite { fua: flags & 1 != 0, ..ReadWrite::new(Nsid(nsid), Lba(slba), BlockCount(blocks)) };
        let like = place.sqe(nvferry_wire::nvm::NvmOpcode::Read, cid, SglDescriptor::Transport { length: 0 });
        sqe.as_bytes_mut()[40..52].copy_from_slice(&like.as_bytes()[40..52]);
        let block = if nsid == 3 { 4096 } else { 512 };
        let (mut length, mut data) = (blocks.saturating_mul(block), input.u8());
        let mut bytes = Vec::new();
        if opcode == 9 {
            let ranges = 1 + u32::from(flags >> 5);
            sqe.as_bytes_mut()[40..44].copy_from_slice(&(ranges - 1).to_le_bytes());
            sqe.as_bytes_mut()[44] = 4;
            length = ranges * 16;
            for _ in 0..ranges {
                let (count, from) = (u32::from(input.u8()), u64::from(input.u8()));
                bytes.extend([&[0; 4], &count.to_le_bytes()[..], &from.to_le_bytes()].concat());
            }
        }
        if flags & 0x0E == 0x0E {
            length = input.u32();
        }
        if flags & 0x10 != 0 || length > 64 << 10 {
            sqe.set_sgl(SglDescriptor::Transport { length });
            return self.say_capsule(sqe, &[], false);
        }
        let offset = u64::from(data & 3) * 4 * u64::from(data & 1);
        sqe.set_sgl(SglDescriptor::InCapsule { offset, length });
        if opcode == 2 {
            sqe.set_sgl(SglDescriptor::Transport { length });
            bytes.clear();
        } else if opcode != 9 {
            data |= 1;
            bytes = (0..length).map(|at| (at as u8).wrapping_mul(data)).collect();
        }
        let padding = vec![0xEE; offset as usize];
        if opcode != 2 {
            bytes = [padding, bytes].concat();
        }
        self.say_capsule(sqe, &bytes, flags & 0x0E == 0x0C);
    }

    /// Answers something that the target asked for, or pretends to.
    pub(super) fn say_data(&mut self, input: &mut Input<'_>) {
        self.hear();
        let which = usize::from(input.u8());
        let Some(line) = self.lines.get_mut(self.line) else { return };
        let mut r2t = R2t { cccid: nvferry_wire::CommandId(1), ttag: TransferTag(0), r2to: 0, r2tl: 512 };
        let how = input.u8();
        if !line.r2ts.is_empty() {
            let at = which % line.r2ts.len();
            r2t = line.r2ts[at];
            if how & 0x80 == 0 {
                line.r2ts.remove(at);
            }
        }
        let (mut at, mut len, mut last) = (0, r2t.r2tl.min(1 << 20), true);
        match how & 0x0F {
            1 => r2t.ttag.0 = r2t.ttag.0.wrapping_add(input.u16()),
            2 => r2t.cccid.0 = r2t.cccid.0.wrapping_add(input.u16()),
            3 => at = input.u32(),
            4 => len = input.u32() & 0x1F_FFFF,
            5 => last = false,
            6 => {
                // In parts, the first of which is this long.
                let first = len.min(1 + u32::from(input.u16()));
                let bytes = vec![input.u8(); first as usize];
                self.say_h2c(&r2t, 0, &bytes, DataEnd::More, false);
                (at, len) = (first, len - first);
            }
            7 => len = 0,
            _ => {}
        }
        let bytes = vec![input.u8(); len as usize];
        let end = if last { DataEnd::Last } else { DataEnd::More };
        self.say_h2c(&r2t, at, &bytes, end, how & 0x70 == 0x70);
    }

    fn say_h2c(&mut self, r2t: &R2t, datao: u32, data: &[u8], end: DataEnd, corrupt: bool) {
        let framing = self.framing();
        let pdu = DataPdu { cccid: r2t.cccid, ttag: r2t.ttag, datao, datal: data.len() as u32, end };
        let mut out = [0; MAX_HEADER_BYTES];
        let len = pdu.encode_h2c(&framing, &mut out);
        let mut bytes = out[..len].to_vec();
        append(&mut bytes, data, &framing, corrupt);
        self.say(&bytes);
    }

    /// A command of any bytes, perhaps under an identifier that is in use.
    pub(super) fn say_command(&mut self, input: &mut Input<'_>) {
        let mut bytes = [0; 64];
        let given = input.take(64);
        bytes[..given.len()].copy_from_slice(given);
        let mut sqe = Sqe::from_bytes(bytes);
        let waiting = self.lines.get(self.line).map(super::Line::waiting).unwrap_or_default();
        match (input.u8() & 3, waiting.first()) {
            (0, _) => sqe.set_cid(self.sqe(0, 0).cid()),
            (1, Some(&cid)) => sqe.set_cid(cid),
            _ => {}
        }
        let data = input.chunk();
        self.say_capsule(sqe, data, false);
    }

    pub(super) fn say_term(&mut self, input: &mut Input<'_>) {
        let fes = nvferry_wire::pdu::FatalErrorStatus::from_wire(input.u8().into());
        let mut out = [0; TERM_REQ_MAX_LEN];
        let len = TermReq { fes, fei: input.u32() }.encode(Role::Host, input.take(24), &mut out);
        self.say(&out[..len]);
    }

    /// A whole queue, as a host should make it.
    pub(super) fn connect_queue(&mut self, input: &mut Input<'_>) {
        let setup = input.u8();
        let io = setup & 1 != 0;
        self.open(1 << 20);
        let mut out = [0; MAX_HEADER_BYTES];
        let digests = Digests { header: setup & 2 != 0, data: setup & 4 != 0 };
        let hpda = DataAlignment::from_wire(setup >> 5).unwrap_or_default();
        let len = IcReq { pfv: PFV_1_0, hpda, digests, maxr2t: 1 }.encode(&mut out);
        self.say(&out[..len]);
        let cntlid = if io { self.controller } else { ControllerId::DYNAMIC };
        let qid = if io { 1 + u16::from(input.u8() % 8) } else { 0 };
        self.connect(qid, 128, cntlid, SUBSYSTEM, setup >> 3 & 1, 0);
        if !io {
            let cid = self.sqe(0, 0).cid();
            self.say_capsule(PropertySet::of(Property::Cc, Cc::enabled().0.into()).sqe(cid), &[], false);
        }
        self.turns(8);
        self.hear();
    }
}

fn append(bytes: &mut Vec<u8>, data: &[u8], framing: &Framing, corrupt: bool) {
    bytes.extend_from_slice(data);
    if framing.digests.data && !data.is_empty() {
        bytes.extend_from_slice(&(crc32c(data) ^ u32::from(corrupt)).to_le_bytes());
    }
}
