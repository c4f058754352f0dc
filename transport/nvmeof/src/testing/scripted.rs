//! A target that does what a test tells it to: well, badly, or not at all.

use nvferry_io::stream::{MemoryStream, Stream};
use nvferry_io::vector::IoVecs;
use nvferry_wire::digest::{DIGEST_LEN, crc32c};
use nvferry_wire::fabrics::{ConnectResult, FABRICS_OPCODE, FabricsType};
use nvferry_wire::nvm::{NvmOpcode, ReadWrite};
use nvferry_wire::pdu::{
    COMMON_HEADER_LEN, CapsuleResp, CommonHeader, DataAlignment, DataEnd, DataPdu, Digests, Framing, IcResp,
    MAX_HEADER_BYTES, PFV_1_0, Pdu, PduRules, R2t, Role,
};
use nvferry_wire::sgl::SglDescriptor;
use nvferry_wire::{CommandId, ControllerId, Cqe, Sqe, Status, StatusCode, TransferTag};
use std::collections::HashMap;

pub(crate) const BLOCK: usize = 512;

/// Something that the host sent.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) pdu: Pdu,
    pub(crate) data: Vec<u8>,
}

impl Heard {
    /// The command, if it is one.
    pub(crate) fn command(&self) -> Option<Sqe> {
        match &self.pdu {
            Pdu::CapsuleCmd(capsule) => Some(capsule.sqe),
            _ => None,
        }
    }

    /// Reads or writes which blocks.
    pub(crate) fn io(&self) -> (NvmOpcode, ReadWrite) {
        let sqe = self.command().expect("a command");
        (NvmOpcode::from_u8(sqe.opcode()).expect("an I/O command"), ReadWrite::decode(&sqe))
    }
}

/// A target on one connection.
pub(crate) struct ScriptedTarget<S = MemoryStream> {
    pub(crate) stream: S,
    bytes: Vec<u8>,
    rules: PduRules,
    framing: Framing,
    vecs: IoVecs,
    /// What it grants in ICResp.
    pub(crate) grants: IcResp,
    /// Writes whose data it waits for.
    writes: HashMap<CommandId, Sqe>,
    /// The host sends no more.
    pub(crate) ended: bool,
}

impl<S: Stream> ScriptedTarget<S> {
    pub(crate) fn new(stream: S) -> Self {
        let grants = IcResp { pfv: PFV_1_0, cpda: DataAlignment::NONE, digests: Digests::NONE, maxh2cdata: 1 << 20 };
        Self {
            stream,
            bytes: Vec::new(),
            rules: PduRules::initial(Role::Controller),
            framing: Framing::default(),
            vecs: IoVecs::new(),
            grants,
            writes: HashMap::new(),
            ended: false,
        }
    }

    /// What has arrived, as whole PDUs. Panics if the host broke the protocol.
    pub(crate) fn hear(&mut self) -> Vec<Heard> {
        let mut chunk = vec![0; 1 << 16];
        loop {
            let mut list = self.vecs.scatter();
            list.push(&mut chunk);
            match self.stream.recv(&mut list) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Ok(0) | Err(_) => {
                    self.ended = true;
                    break;
                }
                Ok(n) => self.bytes.extend_from_slice(&chunk[..n]),
            }
        }
        let mut heard = Vec::new();
        while let Some(one) = self.next_pdu() {
            if let Pdu::IcReq(request) = &one.pdu {
                // From the next PDU on, the granted rules hold.
                let digests = request.digests.and(self.grants.digests);
                self.grants.digests = digests;
                self.framing = Framing { digests, alignment: request.hpda };
                self.rules.framing = Framing { digests, alignment: self.grants.cpda };
                self.rules.max_capsule_data_bytes = 16 << 10;
                self.rules.max_data_bytes = self.grants.maxh2cdata;
            }
            heard.push(one);
        }
        heard
    }

    fn next_pdu(&mut self) -> Option<Heard> {
        let common = self.bytes.first_chunk::<COMMON_HEADER_LEN>()?;
        let common = CommonHeader::decode(common, &self.rules).expect("the host's header is right");
        let layout = common.layout();
        let total = layout.total_bytes() as usize;
        if self.bytes.len() < total {
            return None;
        }
        let pdu: Vec<u8> = self.bytes.drain(..total).collect();
        layout.check_header_digest(&pdu).expect("the host's header digest is right");
        let at = layout.data_offset();
        let data = pdu[at..at + layout.data_bytes as usize].to_vec();
        if layout.data_digest_bytes > 0 {
            let digest = &pdu[pdu.len() - DIGEST_LEN..];
            assert_eq!(digest, crc32c(&data).to_le_bytes(), "the host's data digest is right");
        }
        Some(Heard { pdu: Pdu::decode(&common, &pdu).expect("the host's PDU is right"), data })
    }

    /// Sends bytes as they are. Panics if the host leaves too many unread.
    pub(crate) fn say_raw(&mut self, bytes: &[u8]) {
        let (mut at, mut refused) = (0, 0);
        while at < bytes.len() {
            let mut list = self.vecs.gather();
            list.push(&bytes[at..]);
            match self.stream.send(&list) {
                Ok(n) => at += n,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    refused += 1;
                    assert!(refused < 1_000_000, "the host does not receive");
                    std::thread::yield_now();
                }
                Err(_) => return,
            }
        }
    }

    pub(crate) fn say_icresp(&mut self) {
        let mut out = [0; MAX_HEADER_BYTES];
        let n = self.grants.encode(&mut out);
        self.say_raw(&out[..n]);
    }

    pub(crate) fn complete(&mut self, cid: CommandId, status: impl Into<Status>) {
        self.complete_with(Cqe::new(cid, 0, status));
    }

    pub(crate) fn complete_with(&mut self, cqe: Cqe) {
        let mut out = [0; MAX_HEADER_BYTES];
        let n = CapsuleResp { cqe }.encode(&self.framing, &mut out);
        self.say_raw(&out[..n]);
    }

    /// A C2HData; its digest, if they are on, is that of `data`.
    pub(crate) fn say_data(&mut self, cid: CommandId, datao: u32, data: &[u8], end: DataEnd) {
        let bytes = self.data_pdu(cid, datao, data, end);
        self.say_raw(&bytes);
    }

    /// The bytes of a C2HData.
    pub(crate) fn data_pdu(&self, cid: CommandId, datao: u32, data: &[u8], end: DataEnd) -> Vec<u8> {
        let mut out = [0; MAX_HEADER_BYTES];
        let pdu = DataPdu { cccid: cid, ttag: TransferTag(0), datao, datal: data.len() as u32, end };
        let n = pdu.encode_c2h(&self.framing, &mut out);
        let mut bytes = out[..n].to_vec();
        bytes.extend_from_slice(data);
        if self.framing.digests.data && !data.is_empty() {
            bytes.extend_from_slice(&crc32c(data).to_le_bytes());
        }
        bytes
    }

    pub(crate) fn say_r2t(&mut self, cid: CommandId, ttag: u16, r2to: u32, r2tl: u32) {
        let mut out = [0; MAX_HEADER_BYTES];
        let n = R2t { cccid: cid, ttag: TransferTag(ttag), r2to, r2tl }.encode(&self.framing, &mut out);
        self.say_raw(&out[..n]);
    }

    /// Answers the opening of the connection, and Connect: the usual beginning. Tells whether it was one of these.
    pub(crate) fn open(&mut self, heard: &Heard) -> bool {
        match &heard.pdu {
            Pdu::IcReq(_) => self.say_icresp(),
            Pdu::CapsuleCmd(capsule)
                if capsule.sqe.opcode() == FABRICS_OPCODE
                    && FabricsType::of(&capsule.sqe) == Ok(FabricsType::Connect) =>
            {
                let result = ConnectResult {
                    cntlid: ControllerId(1),
                    authentication_required: false,
                    secure_channel_required: false,
                };
                self.complete_with(Cqe::success(capsule.sqe.cid(), 0, result.to_result()));
            }
            _ => return false,
        }
        true
    }

    /// Behaves well, on blocks of 512 bytes: reads in PDUs of at most `max_data`, SUCCESS where `success`.
    pub(crate) fn serve(&mut self, heard: &Heard, store: &mut [u8], max_data: usize, success: bool) {
        if self.open(heard) {
            return;
        }
        match &heard.pdu {
            Pdu::CapsuleCmd(capsule) => {
                let (opcode, command) = heard.io();
                let cid = capsule.sqe.cid();
                let start = command.slba.0 as usize * BLOCK;
                let len = command.data_bytes(BLOCK as u32) as usize;
                if start + len > store.len() {
                    return self.complete(cid, StatusCode::LbaOutOfRange);
                }
                match (opcode, capsule.sqe.sgl().expect("a data pointer")) {
                    (NvmOpcode::Read, _) => {
                        let data = store[start..start + len].to_vec();
                        let mut at = 0;
                        while at < len {
                            let n = max_data.min(len - at);
                            let end = match (at + n == len, success) {
                                (false, _) => DataEnd::More,
                                (true, true) => DataEnd::LastWithSuccess,
                                (true, false) => DataEnd::Last,
                            };
                            self.say_data(cid, at as u32, &data[at..at + n], end);
                            at += n;
                        }
                        if !success {
                            self.complete(cid, StatusCode::Success);
                        }
                    }
                    (NvmOpcode::Write, SglDescriptor::InCapsule { length, .. }) => {
                        assert_eq!((length as usize, heard.data.len()), (len, len));
                        store[start..start + len].copy_from_slice(&heard.data);
                        self.complete(cid, StatusCode::Success);
                    }
                    (NvmOpcode::Write, _) => {
                        self.writes.insert(cid, capsule.sqe);
                        self.say_r2t(cid, cid.0 ^ 0x5555, 0, len as u32);
                    }
                    other => panic!("the host sent {other:?}"),
                }
            }
            Pdu::H2cData(pdu) => {
                assert_eq!(pdu.ttag.0, pdu.cccid.0 ^ 0x5555, "the host repeats the tag");
                let command = ReadWrite::decode(&self.writes[&pdu.cccid]);
                let start = command.slba.0 as usize * BLOCK + pdu.datao as usize;
                store[start..start + heard.data.len()].copy_from_slice(&heard.data);
                let whole = command.data_bytes(BLOCK as u32);
                let is_last = u64::from(pdu.datao + pdu.datal) == whole;
                assert_eq!(pdu.end.is_last(), is_last, "LAST_PDU stands where it belongs");
                if is_last {
                    self.writes.remove(&pdu.cccid);
                    self.complete(pdu.cccid, StatusCode::Success);
                }
            }
            other => panic!("the host sent {other:?}"),
        }
    }
}
