//! One connection to the target, and what its two ends may say: every byte of both directions is read along.

use super::files::{Files, Record};
use crate::reader::{Reader, Seen};
use nvferry_io::Stream;
use nvferry_io::stream::{Cut, MemoryStream, memory_pair};
use nvferry_io::vector::IoVecs;
use nvferry_wire::fabrics::{Connect, ConnectResult, FABRICS_OPCODE, FabricsType};
use nvferry_wire::nvm::{NvmOpcode, ReadWrite};
use nvferry_wire::pdu::{DataEnd, DataPdu, Framing, IcReq, Pdu, PduRules, R2t, Role};
use nvferry_wire::{CommandId, ControllerId, Cqe, QueueId, Sqe};
use std::io;

/// What the target takes in a capsule, and in an H2CData.
const MAX_CAPSULE_BYTES: u32 = nvferry_target::userspace::limits::MAX_IN_CAPSULE_BYTES;
const MAX_DATA_BYTES: u32 = nvferry_target::userspace::limits::MAX_H2C_DATA_BYTES;

/// A command that the target has not answered.
#[derive(Debug)]
struct Pending {
    sqe: Sqe,
    /// Data that it sent.
    moved: u32,
    /// It asked for data.
    asked: bool,
    /// What the command changes, if it may.
    record: Option<usize>,
}

/// One connection.
pub(super) struct Line {
    pub(super) stream: Option<MemoryStream>,
    sent: Reader,
    heard: Reader,
    /// How PDUs to the target are built.
    pub(super) framing: Framing,
    icreq: Option<IcReq>,
    icresp: bool,
    /// The queues that were asked for, in whatever words.
    connects: Vec<(CommandId, QueueId)>,
    /// The queue that it became.
    pub(super) queue: Option<QueueId>,
    pending: Vec<Pending>,
    /// What the target asked for and was not given.
    pub(super) r2ts: Vec<R2t>,
    /// The target has said its last word.
    is_over: bool,
    /// Two commands had the same identifier: which of them is meant cannot be told any more.
    is_muddled: bool,
    next_cid: u16,
    vecs: IoVecs,
    /// All that the target said, where that is wanted.
    pub(super) tape: Option<Vec<u8>>,
}

impl Line {
    /// A connection, and the target's end of it.
    pub(super) fn new(capacity_bytes: usize) -> (Self, MemoryStream) {
        let (stream, other) = memory_pair(capacity_bytes);
        let line = Self {
            stream: Some(stream),
            sent: Reader::new(Role::Controller),
            heard: Reader::new(Role::Host),
            framing: Framing::default(),
            icreq: None,
            icresp: false,
            connects: Vec::new(),
            queue: None,
            pending: Vec::new(),
            r2ts: Vec::new(),
            is_over: false,
            is_muddled: false,
            next_cid: 0,
            vecs: IoVecs::new(),
            tape: None,
        };
        (line, other)
    }

    /// Leaves. A host that was cut off silently is found out by the kernel, sooner or later; what is still on its way
    /// arrives at once, as nothing is left that would say how it is split.
    pub(super) fn leave(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        split(&stream, usize::MAX);
        if stream.outgoing().is_silent() {
            stream.outgoing().cut(Cut::Reset);
        }
    }

    pub(super) fn cid(&mut self) -> CommandId {
        self.next_cid = self.next_cid.wrapping_add(1);
        CommandId(self.next_cid)
    }

    /// The commands that wait for an answer.
    pub(super) fn waiting(&self) -> Vec<CommandId> {
        self.pending.iter().map(|pending| pending.sqe.cid()).collect()
    }

    /// Sends what the stream takes, and tells how much that is.
    pub(super) fn say(&mut self, bytes: &[u8], files: &mut Files) -> usize {
        let Some(stream) = &mut self.stream else { return 0 };
        let mut list = self.vecs.gather();
        list.push(bytes);
        let sent = stream.send(&list).unwrap_or(0);
        self.sent.push(&bytes[..sent]);
        while let Some(seen) = self.sent.next() {
            self.said(&seen, files);
        }
        if let Some(Pdu::CapsuleCmd(capsule)) = self.sent.begun() {
            self.commanded(&capsule.sqe);
            // One that takes no data may be carried out before what comes with it has arrived.
            self.may_change(&capsule.sqe, None, files);
        }
        sent
    }

    /// Takes note of a PDU that has gone to the target.
    fn said(&mut self, seen: &Seen, files: &mut Files) {
        match seen.pdu {
            Pdu::IcReq(request) if self.icreq.is_none() => {
                self.icreq = Some(request);
                let digests = request.digests;
                self.framing = Framing { digests, ..Framing::default() };
                self.sent.rules = PduRules {
                    receiver: Role::Controller,
                    framing: self.framing,
                    max_capsule_data_bytes: MAX_CAPSULE_BYTES,
                    max_data_bytes: MAX_DATA_BYTES,
                };
            }
            Pdu::CapsuleCmd(capsule) => {
                let sqe = capsule.sqe;
                if !seen.was_told {
                    self.commanded(&sqe);
                }
                self.may_change(&sqe, Some(seen), files);
            }
            Pdu::H2cData(data) => {
                let of_command = self.pending.iter().filter(|pending| pending.sqe.cid() == data.cccid);
                for record in of_command.filter_map(|pending| pending.record) {
                    files.data(record, &data, seen);
                }
            }
            _ => {}
        }
    }

    /// The target has a command, perhaps without its data.
    fn commanded(&mut self, sqe: &Sqe) {
        if sqe.opcode() == FABRICS_OPCODE && FabricsType::of(sqe) == Ok(FabricsType::Connect) {
            self.connects.extend(Connect::decode(sqe).map(|connect| (sqe.cid(), connect.qid)));
        }
        self.is_muddled |= self.pending.iter().any(|pending| pending.sqe.cid() == sqe.cid());
        self.pending.push(Pending { sqe: *sqe, moved: 0, asked: false, record: None });
    }

    /// Takes note of what a command may change, as far as its capsule has come. It may have been answered already, without a
    /// look at its data.
    fn may_change(&mut self, sqe: &Sqe, capsule: Option<&Seen>, files: &mut Files) {
        if self.icreq.is_none() || self.connects.iter().all(|(_, qid)| qid.is_admin()) {
            return;
        }
        let record = files.command(sqe, capsule);
        if let Some(pending) = self.pending.iter_mut().rfind(|pending| pending.sqe.cid() == sqe.cid()) {
            pending.record = record;
        }
    }

    /// Reads what the target has said, and checks that it may say so. Returns controllers that it gave.
    pub(super) fn hear(&mut self, files: &Files) -> Option<ControllerId> {
        let mut chunk = [0; 4096];
        let mut given = None;
        while let Some(stream) = self.stream.as_mut().filter(|stream| stream.readable()) {
            let mut list = self.vecs.scatter();
            list.push(&mut chunk);
            match stream.recv(&mut list) {
                Ok(0) => break,
                Ok(n) => {
                    self.heard.push(&chunk[..n]);
                    self.tape.iter_mut().for_each(|tape| tape.extend_from_slice(&chunk[..n]));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.stream = None;
                    break;
                }
            }
            while let Some(seen) = self.heard.next() {
                given = self.take(&seen, files).or(given);
            }
            assert!(self.heard.broken().is_none(), "the target sent what is no PDU: {:?}", self.heard.broken());
        }
        given
    }

    fn take(&mut self, seen: &Seen, files: &Files) -> Option<ControllerId> {
        assert!(!self.is_over, "after its termination request the target said {:?}", seen.pdu);
        assert!(seen.intact, "the target's own digest is wrong");
        match seen.pdu {
            Pdu::C2hTermReq(_) => self.is_over = true,
            Pdu::IcResp(response) => {
                let request = self.icreq.expect("no ICResp without an ICReq");
                assert!(!std::mem::replace(&mut self.icresp, true), "a second ICResp");
                assert_eq!(response.digests, request.digests);
                self.heard.rules = PduRules {
                    receiver: Role::Host,
                    framing: Framing { digests: request.digests, alignment: request.hpda },
                    max_capsule_data_bytes: 0,
                    max_data_bytes: MAX_DATA_BYTES,
                };
            }
            Pdu::CapsuleResp(response) => return self.answered(response.cqe),
            Pdu::C2hData(data) => self.data(&data, seen, files),
            Pdu::R2t(r2t) => {
                let pending = self.pending.iter_mut().find(|pending| pending.sqe.cid() == r2t.cccid);
                let pending = pending.expect("an R2T for a command that waits for it");
                assert!(self.is_muddled || !pending.asked, "a second R2T: {r2t:?}");
                let whole = pending.sqe.sgl().map_or(0, |sgl| sgl.length_bytes());
                assert!(self.is_muddled || (r2t.r2to, r2t.r2tl) == (0, whole), "all is asked for at once: {r2t:?}");
                pending.asked = true;
                self.r2ts.push(r2t);
            }
            ref other => panic!("the target said {other:?}"),
        }
        None
    }

    /// A command is over. Returns the controller that a Connect was given.
    fn answered(&mut self, cqe: Cqe) -> Option<ControllerId> {
        assert!(self.icresp, "an answer before ICResp");
        let at = self.pending.iter().position(|pending| pending.sqe.cid() == cqe.cid);
        let pending = self.pending.remove(at.unwrap_or_else(|| panic!("an answer to nothing: {cqe:?}")));
        self.r2ts.retain(|r2t| r2t.cccid != cqe.cid);
        if self.queue.is_some() || !cqe.status.is_success() {
            return None;
        }
        let connect = self.connects.iter().find(|(cid, _)| *cid == cqe.cid);
        let (_, qid) = connect.unwrap_or_else(|| panic!("{:?} was carried out before Connect", pending.sqe));
        self.queue = Some(*qid);
        Some(ConnectResult::from_result(cqe.result).cntlid)
    }

    fn data(&mut self, data: &DataPdu, seen: &Seen, files: &Files) {
        let queue = self.queue.expect("no data before Connect");
        let at = self.pending.iter().position(|pending| pending.sqe.cid() == data.cccid);
        let at = at.unwrap_or_else(|| panic!("data for nothing: {data:?}"));
        if self.is_muddled {
            return;
        }
        let pending = &mut self.pending[at];
        let whole = pending.sqe.sgl().expect("it was understood").length_bytes();
        assert_eq!(data.datao, pending.moved, "data comes in order");
        pending.moved += data.datal;
        assert!(pending.moved <= whole, "{} of {whole} bytes came", pending.moved);
        if !queue.is_admin() && NvmOpcode::from_u8(pending.sqe.opcode()) == Some(NvmOpcode::Read) {
            files.check_read(&ReadWrite::decode(&pending.sqe), data.datao, &seen.data);
        }
        if data.end == DataEnd::LastWithSuccess {
            assert_eq!(pending.moved, whole, "success, and data is missing");
            self.pending.remove(at);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Record {
    /// Takes note of data that has been sent.
    pub(super) fn note(&mut self, at: usize, seen: &Seen) {
        if !self.takes_data {
            return;
        }
        self.corrupt |= !seen.intact;
        self.end = at + seen.data.len();
        if let Some(to) = self.data.get_mut(at..at + seen.data.len()) {
            to.copy_from_slice(&seen.data);
        }
    }
}

/// Both directions carry at most so many bytes at once.
pub(super) fn split(stream: &MemoryStream, most: usize) {
    stream.outgoing().set_max_bytes_per_call(most);
    stream.incoming().set_max_bytes_per_call(most);
}
