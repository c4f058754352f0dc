//! The target's end of a connection. What the host says must be right, whatever it was told before.

use crate::input::Input;
use crate::reader::{Reader, Seen};
use nvferry_io::Stream;
use nvferry_io::stream::{Cut, MemoryStream, memory_pair};
use nvferry_io::vector::IoVecs;
use nvferry_wire::digest::crc32c;
use nvferry_wire::pdu::{
    CapsuleResp, DataAlignment, DataEnd, DataPdu, Digests, FatalErrorStatus, Framing, IcResp, MAX_HEADER_BYTES, Pdu,
    PduRules, R2t, Role, TERM_REQ_MAX_LEN, TermReq,
};
use nvferry_wire::{CommandId, Cqe, SglDescriptor, Sqe, StatusCode, TransferTag};

/// What hosts may put in a capsule or an H2CData, at most.
const MAX_DATA_BYTES: u32 = 1 << 20;

/// A command that the host waits for.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) sqe: Sqe,
    /// Data that came in its capsule.
    pub(super) data: Vec<u8>,
    /// Bytes that were sent for it, or asked for.
    pub(super) moved: u32,
    /// What was asked for and has not come.
    asked: Vec<R2t>,
}

impl Command {
    /// Bytes of its data.
    pub(super) fn len(&self) -> u32 {
        self.sqe.sgl().map_or(0, SglDescriptor::length_bytes)
    }
}

pub(super) struct Peer {
    pub(super) stream: MemoryStream,
    heard: Reader,
    framing: Framing,
    granted: Option<IcResp>,
    asked_digests: Digests,
    pub(super) commands: Vec<Command>,
    /// Something was said whose meaning only the host knows: what it waits for is not known any more.
    pub(super) is_muddled: bool,
    /// The next data comes with a wrong digest.
    corrupt: bool,
    /// The host has said its last word.
    is_over: bool,
    vecs: IoVecs,
    /// What the host said, until somebody takes it.
    pub(super) tape: Vec<u8>,
}

impl Peer {
    /// A connection of a host that will ask for these digests; its end of it, too.
    pub(super) fn new(capacity_bytes: usize) -> (Self, MemoryStream) {
        let (stream, other) = memory_pair(capacity_bytes);
        let peer = Self {
            stream,
            heard: Reader::new(Role::Controller),
            framing: Framing::default(),
            granted: None,
            asked_digests: Digests::NONE,
            commands: Vec::new(),
            is_muddled: false,
            corrupt: false,
            is_over: false,
            vecs: IoVecs::new(),
            tape: Vec::new(),
        };
        (peer, other)
    }

    /// Takes in what the host has said; returns data that came for commands, as (command, position, data).
    pub(super) fn hear(&mut self) -> Vec<(Sqe, u32, Vec<u8>)> {
        let mut chunk = [0; 4096];
        let mut data = Vec::new();
        while self.stream.readable() {
            let mut list = self.vecs.scatter();
            list.push(&mut chunk);
            match self.stream.recv(&mut list) {
                Ok(n) if n > 0 => {
                    self.heard.push(&chunk[..n]);
                    self.tape.extend_from_slice(&chunk[..n]);
                }
                _ => break,
            }
            while let Some(seen) = self.heard.next() {
                data.extend(self.take(seen));
            }
            assert!(self.heard.broken().is_none(), "the host said what is no PDU: {:?}", self.heard.broken());
        }
        data
    }

    fn take(&mut self, seen: Seen) -> Option<(Sqe, u32, Vec<u8>)> {
        assert!(!self.is_over, "after its termination request the host said {:?}", seen.pdu);
        assert!(seen.intact, "the host's own digest is wrong");
        match seen.pdu {
            Pdu::IcReq(request) => {
                self.asked_digests = request.digests;
                self.framing.alignment = request.hpda;
            }
            Pdu::CapsuleCmd(capsule) => {
                assert!(self.granted.is_some() || self.is_muddled, "a command before ICResp");
                let sqe = capsule.sqe;
                let known = self.commands.iter().any(|command| command.sqe.cid() == sqe.cid());
                assert!(self.is_muddled || !known, "{sqe:?} has the identifier of a command that is under way");
                self.commands.push(Command { sqe, data: seen.data.clone(), moved: 0, asked: Vec::new() });
                if let Ok(SglDescriptor::InCapsule { offset, length }) = sqe.sgl() {
                    assert_eq!((offset, length as usize), (0, seen.data.len()));
                    return Some((sqe, 0, seen.data));
                }
            }
            Pdu::H2cData(pdu) => return self.take_data(&pdu, seen.data),
            Pdu::H2cTermReq(_) => self.is_over = true,
            ref other => panic!("the host said {other:?}"),
        }
        None
    }

    /// Data comes only as it was asked for.
    fn take_data(&mut self, pdu: &DataPdu, data: Vec<u8>) -> Option<(Sqe, u32, Vec<u8>)> {
        let command = self.commands.iter_mut().find(|command| command.sqe.cid() == pdu.cccid);
        if self.is_muddled {
            return None;
        }
        let command = command.expect("data for a command that is under way");
        let asked = command.asked.iter_mut().find(|r2t| r2t.ttag == pdu.ttag);
        let r2t = asked.expect("data under a tag that asked for it");
        assert_eq!(pdu.datao, r2t.r2to, "data in order");
        assert!(pdu.datal > 0 && pdu.datal <= r2t.r2tl, "no more than was asked for: {pdu:?} of {r2t:?}");
        assert!(self.granted.is_some_and(|granted| pdu.datal <= granted.maxh2cdata), "MAXH2CDATA");
        r2t.r2to += pdu.datal;
        r2t.r2tl -= pdu.datal;
        assert_eq!(pdu.end.is_last(), r2t.r2tl == 0, "LAST_PDU stands where it belongs");
        command.asked.retain(|r2t| r2t.r2tl > 0);
        Some((command.sqe, pdu.datao, data))
    }

    /// Says something, as far as the stream takes it.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        let mut list = self.vecs.gather();
        list.push(bytes);
        let sent = self.stream.send(&list).unwrap_or(0);
        // Half a PDU: what follows is read in another way than it is said.
        self.is_muddled |= sent < bytes.len();
    }

    /// Bytes of any kind.
    pub(super) fn say_raw(&mut self, bytes: &[u8]) {
        self.is_muddled = true;
        // Whatever they mean, the host may believe it.
        self.heard.rules.framing = self.framing_to_target();
        self.say(bytes);
        self.learn(bytes);
    }

    fn framing_to_target(&self) -> Framing {
        self.heard.rules.framing
    }

    /// If these bytes begin with an ICResp that the host takes, what the host says from then on follows it.
    fn learn(&mut self, bytes: &[u8]) {
        let mut reader = Reader::new(Role::Host);
        reader.push(bytes);
        if let (None, Some(Seen { pdu: Pdu::IcResp(response), .. })) = (self.granted, reader.next()) {
            self.grant(response);
        }
    }

    fn grant(&mut self, response: IcResp) {
        if self.granted.is_some() || response.digests.and(self.asked_digests) != response.digests {
            return;
        }
        self.granted = Some(response);
        self.framing.digests = response.digests;
        self.heard.rules = PduRules {
            receiver: Role::Controller,
            framing: Framing { digests: response.digests, alignment: response.cpda },
            max_capsule_data_bytes: MAX_DATA_BYTES,
            max_data_bytes: MAX_DATA_BYTES,
        };
    }

    pub(super) fn say_icresp(&mut self, input: &mut Input<'_>) {
        self.hear();
        let digests = Digests::from_wire(input.u8()).and(self.asked_digests);
        let cpda = DataAlignment::from_wire(input.u8() % 32).unwrap_or_default();
        let maxh2cdata = input.pick(&[1 << 20, 4096, 8192, 65_536, !3]);
        let mut out = [0; MAX_HEADER_BYTES];
        let len = IcResp { pfv: 0, cpda, digests, maxh2cdata }.encode(&mut out);
        if input.u8() & 15 == 15 {
            out[usize::from(input.u8() % 16)] = input.u8();
            return self.say_raw(&out[..len]);
        }
        let early = self.granted.is_some();
        self.grant(IcResp { pfv: 0, cpda, digests, maxh2cdata });
        self.is_muddled |= early;
        self.say(&out[..len]);
    }

    /// The command that the input means.
    pub(super) fn which(&self, input: &mut Input<'_>) -> Option<usize> {
        let which = usize::from(input.u8());
        (!self.commands.is_empty()).then(|| which % self.commands.len())
    }

    /// Completes a command that is under way, or pretends to.
    pub(super) fn complete(&mut self, at: Option<usize>, status: StatusCode, dnr: bool, result: u64, sqhd: u16) {
        let cid = at.map_or(CommandId(sqhd), |at| self.commands.remove(at).sqe.cid());
        let status = if dnr { nvferry_wire::Status::permanent(status) } else { nvferry_wire::Status::new(status) };
        self.is_muddled |= at.is_none();
        self.say_cqe(Cqe { result, ..Cqe::new(cid, sqhd, status) });
    }

    fn say_cqe(&mut self, cqe: Cqe) {
        let mut out = [0; MAX_HEADER_BYTES];
        let len = CapsuleResp { cqe }.encode(&self.framing, &mut out);
        self.say(&out[..len]);
    }

    /// Sends data for a command. Success ends the command.
    pub(super) fn say_data(&mut self, at: usize, datao: u32, data: &[u8], end: DataEnd) {
        let command = &mut self.commands[at];
        let (cccid, whole) = (command.sqe.cid(), command.len());
        // What is not as it should be may end the connection.
        command.moved = datao.saturating_add(data.len() as u32).min(whole);
        if end == DataEnd::LastWithSuccess {
            self.commands.remove(at);
        }
        let pdu = DataPdu { cccid, ttag: TransferTag(0), datao, datal: data.len() as u32, end };
        let mut out = [0; MAX_HEADER_BYTES];
        let len = pdu.encode_c2h(&self.framing, &mut out);
        let mut bytes = out[..len].to_vec();
        bytes.extend_from_slice(data);
        if self.framing.digests.data && !data.is_empty() {
            let wrong = u32::from(std::mem::take(&mut self.corrupt));
            bytes.extend_from_slice(&(crc32c(data) ^ wrong).to_le_bytes());
        }
        self.say(&bytes);
    }

    pub(super) fn corrupt_next(&mut self) {
        self.corrupt = true;
    }

    /// Asks for data of a command.
    pub(super) fn say_r2t(&mut self, at: usize, ttag: u16, r2to: u32, r2tl: u32) {
        let command = &mut self.commands[at];
        let r2t = R2t { cccid: command.sqe.cid(), ttag: TransferTag(ttag), r2to, r2tl };
        if r2tl > 0 {
            command.asked.push(r2t);
        }
        command.moved = command.moved.max(r2to.saturating_add(r2tl));
        let mut out = [0; MAX_HEADER_BYTES];
        let len = r2t.encode(&self.framing, &mut out);
        self.say(&out[..len]);
    }

    pub(super) fn say_term(&mut self, input: &mut Input<'_>) {
        let term = TermReq { fes: FatalErrorStatus::from_wire(input.u8().into()), fei: input.u32() };
        let mut out = [0; TERM_REQ_MAX_LEN];
        let len = term.encode(Role::Controller, input.take(24), &mut out);
        self.say(&out[..len]);
    }

    /// Closes, resets, or falls silent.
    pub(super) fn leave(&mut self, how: u8) {
        match how % 3 {
            0 => self.stream.close_send(),
            1 => self.stream.outgoing().cut(Cut::Reset),
            _ => self.stream.outgoing().cut(Cut::Silence),
        }
    }

    pub(super) fn split(&mut self, input: &mut Input<'_>) {
        let most = input.pick(&[usize::MAX, 1, 7, 100, 1000]);
        self.stream.outgoing().set_max_bytes_per_call(most);
        self.stream.incoming().set_max_bytes_per_call(most);
    }
}
