//! A host that does exactly what a test tells it, over anything that can be read and written.

use nvferry_wire::digest::crc32c;
use nvferry_wire::fabrics::{
    CONNECT_DATA_LEN, Cc, Connect, ConnectData, ConnectResult, Csts, Property, PropertyGet, PropertySet,
};
use nvferry_wire::nvm::{NvmOpcode, ReadWrite};
use nvferry_wire::pdu::{
    COMMON_HEADER_LEN, CapsuleCmd, CommonHeader, DataAlignment, DataEnd, DataPdu, Digests, Framing, IcReq, IcResp,
    MAX_HEADER_BYTES, PFV_1_0, Pdu, PduRules, R2t, Role,
};
use nvferry_wire::{
    BlockCount, CommandId, ControllerId, Cqe, HostId, Lba, Nqn, Nsid, QueueId, SglDescriptor, Sqe, Status,
};
use std::io::{Read, Write};

pub(crate) const SUBSYSTEM: &str = "nqn.2016-06.io.mc:test";
pub(crate) const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000001";
pub(crate) const HOST_ID: HostId = HostId([7; 16]);

/// How a command ended: its completion, where one came, and its data.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) cqe: Cqe,
    pub(crate) data: Vec<u8>,
    /// No completion came: the last data said that all is well.
    pub(crate) by_success_flag: bool,
}

impl Ended {
    pub(crate) fn status(&self) -> Status {
        self.cqe.status
    }
}

/// How data gets to the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    InCapsule,
    /// Asked for by R2T, answered in PDUs of at most so many bytes.
    Asked(usize),
}

/// One queue of a host.
pub(crate) struct Host<T> {
    pub(crate) io: T,
    pub(crate) rules: PduRules,
    pub(crate) framing: Framing,
    pub(crate) icresp: IcResp,
    pub(crate) next_cid: u16,
    pub(crate) no_flow_control: bool,
    /// Makes the digest of the next data wrong.
    pub(crate) corrupt_next_data: bool,
}

/// Something a controller sent.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) pdu: Pdu,
    pub(crate) data: Vec<u8>,
}

pub(crate) fn connect_data(subnqn: &str, hostnqn: &str, cntlid: ControllerId) -> ConnectData {
    ConnectData { hostid: HOST_ID, cntlid, subnqn: Nqn::new(subnqn).unwrap(), hostnqn: Nqn::new(hostnqn).unwrap() }
}

impl<T: Read + Write> Host<T> {
    /// Opens a connection: ICReq, ICResp.
    pub(crate) fn open(mut io: T, digests: Digests, hpda: DataAlignment) -> Self {
        let mut out = [0; MAX_HEADER_BYTES];
        let len = IcReq { pfv: PFV_1_0, hpda, digests, maxr2t: 1 }.encode(&mut out);
        io.write_all(&out[..len]).unwrap();
        let mut host = Self {
            io,
            rules: PduRules::initial(Role::Host),
            framing: Framing::default(),
            icresp: IcResp { pfv: 0, cpda: DataAlignment::NONE, digests, maxh2cdata: 4096 },
            next_cid: 0,
            no_flow_control: false,
            corrupt_next_data: false,
        };
        let Pdu::IcResp(icresp) = host.receive().expect("the controller answers ICReq").pdu else {
            panic!("something else than ICResp came");
        };
        assert_eq!(icresp.digests, digests, "all digests that are asked for are granted");
        host.icresp = icresp;
        host.framing = Framing { digests, alignment: icresp.cpda };
        host.rules = PduRules {
            receiver: Role::Host,
            framing: Framing { digests, alignment: hpda },
            max_capsule_data_bytes: 0,
            max_data_bytes: 4 << 20,
        };
        host
    }

    pub(crate) fn plain(io: T) -> Self {
        Self::open(io, Digests::NONE, DataAlignment::NONE)
    }

    pub(crate) fn cid(&mut self) -> CommandId {
        self.next_cid = self.next_cid.wrapping_add(1);
        CommandId(self.next_cid)
    }

    /// Sends bytes as they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.io.write_all(bytes)
    }

    /// Sends a command, with data in its capsule if there is any.
    pub(crate) fn send_command(&mut self, sqe: &Sqe, data: &[u8]) {
        let mut out = [0; MAX_HEADER_BYTES];
        let capsule = CapsuleCmd { sqe: *sqe, data_bytes: data.len() as u32 };
        let len = capsule.encode(&self.framing, &mut out);
        let mut bytes = out[..len].to_vec();
        self.append_data(&mut bytes, data);
        self.io.write_all(&bytes).unwrap();
    }

    fn append_data(&mut self, bytes: &mut Vec<u8>, data: &[u8]) {
        bytes.extend_from_slice(data);
        if self.framing.digests.data && !data.is_empty() {
            let wrong = u32::from(std::mem::take(&mut self.corrupt_next_data));
            bytes.extend_from_slice(&(crc32c(data) ^ wrong).to_le_bytes());
        }
    }

    pub(crate) fn send_h2c(&mut self, pdu: &DataPdu, data: &[u8]) {
        let mut out = [0; MAX_HEADER_BYTES];
        let len = pdu.encode_h2c(&self.framing, &mut out);
        let mut bytes = out[..len].to_vec();
        self.append_data(&mut bytes, data);
        self.io.write_all(&bytes).unwrap();
    }

    /// The next PDU; nothing when the controller has closed the connection.
    pub(crate) fn receive(&mut self) -> Option<Received> {
        let mut header = vec![0; COMMON_HEADER_LEN];
        match self.io.read_exact(&mut header) {
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::UnexpectedEof
                        | std::io::ErrorKind::ConnectionReset
                        | std::io::ErrorKind::BrokenPipe
                ) =>
            {
                return None;
            }
            Err(error) => panic!("cannot receive: {error}"),
        }
        let common = CommonHeader::decode(header.first_chunk().unwrap(), &self.rules).expect("a well-formed PDU");
        let layout = common.layout();
        header.resize(layout.data_offset(), 0);
        self.io.read_exact(&mut header[COMMON_HEADER_LEN..]).unwrap();
        layout.check_header_digest(&header).expect("header digest");
        let mut data = vec![0; layout.data_bytes as usize];
        self.io.read_exact(&mut data).unwrap();
        if layout.data_digest_bytes > 0 {
            let mut digest = [0; 4];
            self.io.read_exact(&mut digest).unwrap();
            assert_eq!(u32::from_le_bytes(digest), crc32c(&data), "data digest");
        }
        Some(Received { pdu: Pdu::decode(&common, &header).expect("a sound header"), data })
    }

    /// Receives until the command has ended; sends what R2Ts ask of `data`.
    pub(crate) fn finish(&mut self, cid: CommandId, data: &[u8], max_h2c: usize) -> Ended {
        let mut got = Vec::new();
        loop {
            let received = self.receive().expect("the connection stays while a command is under way");
            match received.pdu {
                Pdu::CapsuleResp(response) => {
                    assert_eq!(response.cqe.cid, cid, "only one command is under way");
                    return Ended { cqe: response.cqe, data: got, by_success_flag: false };
                }
                Pdu::C2hData(pdu) => {
                    assert_eq!(pdu.cccid, cid);
                    assert_eq!(pdu.datao as usize, got.len(), "data comes in order");
                    got.extend_from_slice(&received.data);
                    if pdu.end == DataEnd::LastWithSuccess {
                        assert!(self.no_flow_control, "the SUCCESS flag needs flow control to be off");
                        let cqe = Cqe::success(cid, 0, 0);
                        return Ended { cqe, data: got, by_success_flag: true };
                    }
                }
                Pdu::R2t(r2t) => self.answer(&r2t, data, max_h2c),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Sends what an R2T asks for.
    pub(crate) fn answer(&mut self, r2t: &R2t, data: &[u8], max_h2c: usize) {
        let asked = &data[r2t.r2to as usize..(r2t.r2to + r2t.r2tl) as usize];
        let max = max_h2c.min(self.icresp.maxh2cdata as usize);
        let count = asked.chunks(max).len();
        let mut datao = r2t.r2to;
        for (index, part) in asked.chunks(max).enumerate() {
            let end = if index + 1 == count { DataEnd::Last } else { DataEnd::More };
            let pdu = DataPdu { cccid: r2t.cccid, ttag: r2t.ttag, datao, datal: part.len() as u32, end };
            self.send_h2c(&pdu, part);
            datao += part.len() as u32;
        }
    }

    /// Executes a command that has no data or gets some.
    pub(crate) fn execute(&mut self, sqe: &Sqe) -> Ended {
        self.send_command(sqe, &[]);
        self.finish(sqe.cid(), &[], usize::MAX)
    }

    /// Executes a command that brings data.
    pub(crate) fn execute_with(&mut self, mut sqe: Sqe, data: &[u8], way: Way) -> Ended {
        let length = data.len() as u32;
        match way {
            Way::InCapsule => {
                sqe.set_sgl(SglDescriptor::InCapsule { offset: 0, length });
                self.send_command(&sqe, data);
                self.finish(sqe.cid(), &[], usize::MAX)
            }
            Way::Asked(max_h2c) => {
                sqe.set_sgl(SglDescriptor::Transport { length });
                self.send_command(&sqe, &[]);
                self.finish(sqe.cid(), data, max_h2c)
            }
        }
    }

    /// Connects a queue.
    pub(crate) fn connect(&mut self, connect: &Connect, data: &ConnectData) -> Ended {
        let mut bytes = [0; CONNECT_DATA_LEN];
        data.encode(&mut bytes);
        let cid = self.cid();
        let ended = self.execute_with(connect.sqe(cid), &bytes, Way::InCapsule);
        self.no_flow_control = connect.disable_sq_flow_control && ended.status().is_success();
        ended
    }

    /// Connects the admin queue and enables the controller.
    pub(crate) fn connect_admin(&mut self, subnqn: &str, kato_ms: u32) -> ControllerId {
        let connect = Connect {
            qid: QueueId::ADMIN,
            sq_entries: 32,
            disable_sq_flow_control: false,
            individual_io_queue_deletion: false,
            kato_ms,
        };
        let ended = self.connect(&connect, &connect_data(subnqn, HOST, ControllerId::DYNAMIC));
        assert!(ended.status().is_success(), "Connect: {}", ended.status());
        self.enable();
        ConnectResult::from_result(ended.cqe.result).cntlid
    }

    pub(crate) fn enable(&mut self) {
        assert!(self.set_cc(Cc::enabled()).is_success());
        assert!(self.csts().ready());
    }

    pub(crate) fn set_cc(&mut self, cc: Cc) -> Status {
        let cid = self.cid();
        self.execute(&PropertySet::of(Property::Cc, cc.0.into()).sqe(cid)).status()
    }

    pub(crate) fn property(&mut self, property: Property) -> u64 {
        let cid = self.cid();
        let ended = self.execute(&PropertyGet::of(property).sqe(cid));
        assert!(ended.status().is_success(), "{property:?}: {}", ended.status());
        ended.cqe.result
    }

    pub(crate) fn csts(&mut self) -> Csts {
        Csts(self.property(Property::Csts) as u32)
    }

    /// Connects an I/O queue.
    pub(crate) fn connect_io(&mut self, cntlid: ControllerId, qid: u16, entries: u32, no_flow_control: bool) {
        let ended = self.try_connect_io(cntlid, qid, entries, no_flow_control);
        assert!(ended.status().is_success(), "Connect: {}", ended.status());
    }

    pub(crate) fn try_connect_io(
        &mut self,
        cntlid: ControllerId,
        qid: u16,
        entries: u32,
        no_flow_control: bool,
    ) -> Ended {
        let connect = Connect {
            qid: QueueId(qid),
            sq_entries: entries,
            disable_sq_flow_control: no_flow_control,
            individual_io_queue_deletion: false,
            kato_ms: 0,
        };
        self.connect(&connect, &connect_data(SUBSYSTEM, HOST, cntlid))
    }

    pub(crate) fn read_sqe(&mut self, nsid: u32, slba: u64, blocks: u32, block_bytes: u32) -> Sqe {
        let cid = self.cid();
        let length = blocks * block_bytes;
        ReadWrite::new(Nsid(nsid), Lba(slba), BlockCount(blocks)).sqe(
            NvmOpcode::Read,
            cid,
            SglDescriptor::Transport { length },
        )
    }

    /// Reads blocks.
    pub(crate) fn read(&mut self, nsid: u32, slba: u64, blocks: u32, block_bytes: u32) -> Result<Vec<u8>, Status> {
        let sqe = self.read_sqe(nsid, slba, blocks, block_bytes);
        let ended = self.execute(&sqe);
        if !ended.status().is_success() {
            return Err(ended.status());
        }
        assert_eq!(ended.data.len(), (blocks * block_bytes) as usize, "a read that succeeds brings everything");
        Ok(ended.data)
    }

    pub(crate) fn write_sqe(&mut self, nsid: u32, slba: u64, blocks: u32) -> Sqe {
        let cid = self.cid();
        let command = ReadWrite::new(Nsid(nsid), Lba(slba), BlockCount(blocks));
        command.sqe(NvmOpcode::Write, cid, SglDescriptor::Transport { length: 0 })
    }

    /// Writes blocks.
    pub(crate) fn write(&mut self, nsid: u32, slba: u64, data: &[u8], block_bytes: u32, way: Way) -> Status {
        let sqe = self.write_sqe(nsid, slba, data.len() as u32 / block_bytes);
        self.execute_with(sqe, data, way).status()
    }
}
