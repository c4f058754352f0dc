//! What arrives: headers through a buffer that the worker's links share, small payloads copied out of it, large
//! payloads received straight into the caller's memory with the next header in the same system call.

use super::payload::{Payload, digest_leased};
use super::slots::{Flow, SlotId};
use super::{Link, LinkError, LinkState};
use nvferry_io::fast_paths::Path;
use nvferry_io::stream::Stream;
use nvferry_io::vector::IoVecs;
use nvferry_wire::digest::{Crc32c, DIGEST_LEN};
use nvferry_wire::pdu::{
    COMMON_HEADER_LEN, CommonHeader, DataEnd, DataPdu, FatalErrorStatus, IcResp, MAX_HEADER_BYTES, Pdu, PduType, R2t,
};
use nvferry_wire::{Cqe, Status};
use std::io;

/// Bytes received behind a payload in place: enough for some headers, too few to make the copy of the next large
/// payload's beginning matter.
const BEHIND_PAYLOAD_BYTES: usize = 512;

/// Bytes received in one go before others have their turn.
const MAX_BYTES_PER_TURN: usize = 2 << 20;

/// Whether more may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReceiveState {
    /// The stream is empty for now.
    Drained,
    /// There may be more; others come first.
    More,
}

/// What the next bytes of the stream are.
#[derive(Debug)]
enum Expect {
    /// A PDU's header, of which `have` bytes are in `Receiver::header`.
    Header { have: usize },
    /// Data of a command, then perhaps its digest.
    Data(Incoming),
    /// A data digest, of which `have` bytes are there.
    Digest { incoming: Incoming, have: usize, bytes: [u8; DIGEST_LEN] },
    /// Bytes that mean nothing here: the quote of a termination request.
    Forget { left: u32 },
}

/// Data that is arriving.
#[derive(Debug, Clone, Copy)]
struct Incoming {
    slot: SlotId,
    end: DataEnd,
    at: u32,
    left: u32,
    has_digest: bool,
    crc: Crc32c,
}

#[derive(Debug)]
pub(super) struct Receiver {
    expect: Expect,
    header: [u8; MAX_HEADER_BYTES],
    /// The last data PDU was a large one, so the next probably is, too.
    expects_large: bool,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self { expect: Expect::Header { have: 0 }, header: [0; MAX_HEADER_BYTES], expects_large: false }
    }
}

impl<T> Link<T> {
    /// Receives what is there. `buffer` is scratch between calls.
    ///
    /// # Errors
    /// Why the connection has to end.
    pub(crate) fn receive(
        &mut self,
        stream: &mut dyn Stream,
        vecs: &mut IoVecs,
        buffer: &mut [u8],
    ) -> Result<ReceiveState, LinkError> {
        let mut turn = 0;
        loop {
            let mut list = vecs.scatter();
            let mut in_place = 0;
            let mut to_buffer = 0;
            if let Expect::Data(incoming) = &self.receiver.expect
                && let Some(busy) = self.slots.get(incoming.slot)
            {
                to_buffer = busy.payload.until_in_place(incoming.at, incoming.left, self.in_place_bytes);
                if to_buffer == 0
                    && let Some((memory, range)) = busy.payload.in_place(incoming.at, incoming.left)
                {
                    in_place = range.len();
                    list.push_leased_range(memory, range);
                }
            }
            let ahead =
                if self.receiver.expects_large { to_buffer as usize + BEHIND_PAYLOAD_BYTES } else { buffer.len() };
            let ahead = ahead.min(buffer.len());
            list.push(&mut buffer[..ahead]);
            let asked = list.bytes();
            self.stats.receives += 1;
            let got = match stream.recv(&mut list) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.taken.add(Path::EmptyReceives, 1);
                    return Ok(ReceiveState::Drained);
                }
                Err(error) => return Err(error.into()),
            };
            let placed = got.min(in_place);
            if placed > 0 {
                self.taken.add(Path::PlacedBytes, placed as u64);
                self.arrived_in_place(placed as u32)?;
            }
            self.parse(&buffer[..got - placed])?;
            turn += got;
            if got < asked {
                // A stream socket that gives less than asked for is empty: what comes now is a new event.
                return Ok(if self.short_receive_is_drained { ReceiveState::Drained } else { ReceiveState::More });
            }
            if turn >= MAX_BYTES_PER_TURN {
                return Ok(ReceiveState::More);
            }
        }
    }

    /// Takes note of data that is where it belongs.
    fn arrived_in_place(&mut self, n: u32) -> Result<(), LinkError> {
        let Expect::Data(incoming) = &mut self.receiver.expect else { return Ok(()) };
        if incoming.has_digest
            && let Some(busy) = self.slots.get(incoming.slot)
            && let Some((memory, range)) = busy.payload.in_place(incoming.at, n)
        {
            digest_leased(&mut incoming.crc, memory, range);
        }
        incoming.at += n;
        incoming.left -= n;
        if incoming.left == 0 {
            let incoming = *incoming;
            self.data_complete(incoming)?;
        }
        Ok(())
    }

    /// Takes in all of `bytes`.
    fn parse(&mut self, mut bytes: &[u8]) -> Result<(), LinkError> {
        while !bytes.is_empty() {
            match &mut self.receiver.expect {
                Expect::Header { have: 0 } => bytes = self.parse_header_in_place(bytes)?,
                Expect::Header { have } => {
                    let have = *have;
                    bytes = self.parse_header_in_parts(bytes, have)?;
                }
                Expect::Data(incoming) => {
                    let n = bytes.len().min(incoming.left as usize);
                    let (data, rest) = bytes.split_at(n);
                    if incoming.has_digest {
                        incoming.crc.update(data);
                    }
                    self.taken.add(Path::CopiedBytes, n as u64);
                    if let Some(busy) = self.slots.get_mut(incoming.slot) {
                        busy.payload.copy_in(incoming.at, data);
                    }
                    incoming.at += n as u32;
                    incoming.left -= n as u32;
                    bytes = rest;
                    if incoming.left == 0 {
                        let incoming = *incoming;
                        self.data_complete(incoming)?;
                    }
                }
                Expect::Digest { incoming, have, bytes: digest } => {
                    let n = bytes.len().min(DIGEST_LEN - *have);
                    digest[*have..*have + n].copy_from_slice(&bytes[..n]);
                    *have += n;
                    bytes = &bytes[n..];
                    if *have == DIGEST_LEN {
                        let (incoming, digest) = (*incoming, *digest);
                        self.taken.add(Path::DataDigests, 1);
                        if incoming.crc.to_bytes() != digest {
                            self.stats.digest_errors += 1;
                            if let Some(busy) = self.slots.get_mut(incoming.slot) {
                                busy.damaged = true;
                            }
                        }
                        self.data_pdu_ended(incoming);
                    }
                }
                Expect::Forget { left } => {
                    let n = bytes.len().min(*left as usize);
                    *left -= n as u32;
                    bytes = &bytes[n..];
                    if *left == 0 {
                        self.receiver.expect = Expect::Header { have: 0 };
                    }
                }
            }
        }
        Ok(())
    }

    /// A header that begins at the first byte; whole, if the bytes suffice. Returns what follows it.
    fn parse_header_in_place<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], LinkError> {
        if let Some(common) = bytes.first_chunk::<COMMON_HEADER_LEN>() {
            let common = self.decode_common(common)?;
            let len = common.layout().data_offset();
            if bytes.len() >= len {
                self.receiver.expect = Expect::Header { have: 0 };
                self.header_complete(&common, &bytes[..len])?;
                return Ok(&bytes[len..]);
            }
        }
        // At most a header less one byte.
        self.receiver.header[..bytes.len()].copy_from_slice(bytes);
        self.receiver.expect = Expect::Header { have: bytes.len() };
        Ok(&[])
    }

    /// A header of which `have` bytes came before. Returns what follows it.
    fn parse_header_in_parts<'a>(&mut self, mut bytes: &'a [u8], mut have: usize) -> Result<&'a [u8], LinkError> {
        let mut fill = |have: &mut usize, header: &mut [u8; MAX_HEADER_BYTES], to: usize| {
            let n = to.saturating_sub(*have).min(bytes.len());
            header[*have..*have + n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            *have += n;
            *have >= to
        };
        let mut header = self.receiver.header;
        if fill(&mut have, &mut header, COMMON_HEADER_LEN)
            && let Some(common) = header.first_chunk::<COMMON_HEADER_LEN>()
        {
            let common = self.decode_common(common)?;
            let len = common.layout().data_offset();
            if fill(&mut have, &mut header, len) {
                self.receiver.expect = Expect::Header { have: 0 };
                self.header_complete(&common, &header[..len])?;
                return Ok(bytes);
            }
        }
        self.receiver.header = header;
        self.receiver.expect = Expect::Header { have };
        Ok(bytes)
    }

    fn decode_common(&self, bytes: &[u8; COMMON_HEADER_LEN]) -> Result<CommonHeader, LinkError> {
        CommonHeader::decode(bytes, &self.rules).map_err(|error| match self.state {
            LinkState::Initializing => LinkError::NotNvmeTcp(error),
            LinkState::Open | LinkState::Ended => LinkError::Pdu(error),
        })
    }

    /// Acts on a header, which `bytes` holds whole, with its digest and padding.
    fn header_complete(&mut self, common: &CommonHeader, bytes: &[u8]) -> Result<(), LinkError> {
        let layout = common.layout();
        self.taken.add(Path::HeaderDigests, self.rules.framing.digests.header.into());
        if let Err(error) = layout.check_header_digest(bytes) {
            self.stats.digest_errors += 1;
            return Err(LinkError::Pdu(error));
        }
        let may_come = match self.state {
            LinkState::Initializing => matches!(common.pdu_type, PduType::IcResp | PduType::C2hTermReq),
            LinkState::Open => common.pdu_type != PduType::IcResp,
            LinkState::Ended => false,
        };
        if !may_come {
            return Err(LinkError::sequence(format!("a {:?} PDU came where none may be", common.pdu_type)));
        }
        match Pdu::decode(common, bytes).map_err(LinkError::Pdu)? {
            Pdu::C2hData(pdu) => self.data_begins(&pdu, layout.data_digest_bytes > 0),
            Pdu::CapsuleResp(resp) => self.completed(resp.cqe),
            Pdu::R2t(r2t) => self.solicited(&r2t),
            Pdu::IcResp(resp) => self.initialized(&resp),
            Pdu::C2hTermReq(term) => {
                self.receiver.expect = Expect::Forget { left: layout.data_bytes.max(1) };
                Err(LinkError::Terminated(term.fes))
            }
            // What only a host may send; `CommonHeader::decode` has refused it.
            Pdu::IcReq(_) | Pdu::H2cTermReq(_) | Pdu::CapsuleCmd(_) | Pdu::H2cData(_) => {
                Err(LinkError::sequence("a PDU came that only a host may send"))
            }
        }
    }

    /// A header of C2HData.
    fn data_begins(&mut self, pdu: &DataPdu, has_digest: bool) -> Result<(), LinkError> {
        let Some(slot) = self.slots.find(pdu.cccid) else {
            return Err(LinkError::out_of_range(format!(
                "data came for command {}, which is not under way",
                pdu.cccid
            )));
        };
        let Some(busy) = self.slots.get(slot) else { return Ok(()) };
        let Flow::ToHost(len) = busy.flow else {
            return Err(LinkError::out_of_range(format!("data came for command {}, which asked for none", pdu.cccid)));
        };
        if pdu.datao != busy.moved || pdu.datal > len - busy.moved {
            let (cid, at, n, moved) = (pdu.cccid, pdu.datao, pdu.datal, busy.moved);
            return Err(LinkError::out_of_range(format!(
                "{n} bytes of data came for byte {at} of command {cid}, which has {moved} of {len}"
            )));
        }
        if pdu.datal == 0 && pdu.end != DataEnd::LastWithSuccess {
            // A target could send such for ever, and nothing would come of it.
            return Err(LinkError::out_of_range(format!("no data came in a data PDU for command {}", pdu.cccid)));
        }
        self.receiver.expects_large = pdu.datal >= self.in_place_bytes;
        let incoming = Incoming {
            slot,
            end: pdu.end,
            at: pdu.datao,
            left: pdu.datal,
            has_digest: has_digest && pdu.datal > 0,
            crc: Crc32c::new(),
        };
        if pdu.datal == 0 {
            self.data_pdu_ended(incoming);
        } else {
            self.receiver.expect = Expect::Data(incoming);
        }
        Ok(())
    }

    fn data_complete(&mut self, incoming: Incoming) -> Result<(), LinkError> {
        if incoming.has_digest {
            self.receiver.expect = Expect::Digest { incoming, have: 0, bytes: [0; DIGEST_LEN] };
        } else {
            self.data_pdu_ended(incoming);
        }
        Ok(())
    }

    /// The last byte of a C2HData, digest included, has come.
    fn data_pdu_ended(&mut self, incoming: Incoming) {
        self.receiver.expect = Expect::Header { have: 0 };
        let cid = self.slots.cid(incoming.slot);
        if let Some(busy) = self.slots.get_mut(incoming.slot) {
            busy.moved = incoming.at;
            if incoming.end == DataEnd::LastWithSuccess {
                self.taken.add(Path::SuccessFlag, 1);
                self.end(incoming.slot, Cqe::new(cid, 0, Status::SUCCESS));
            }
        }
    }

    /// A completion.
    fn completed(&mut self, cqe: Cqe) -> Result<(), LinkError> {
        let Some(slot) = self.slots.find(cqe.cid) else {
            return Err(LinkError::Protocol {
                what: format!("command {} was completed, but is not under way", cqe.cid).into(),
                fes: FatalErrorStatus::InvalidHeaderField,
            });
        };
        self.sender.forget(slot);
        match self.slots.get_mut(slot) {
            Some(busy) if busy.cqe.is_some() => {
                return Err(LinkError::Protocol {
                    what: format!("command {} was completed twice", cqe.cid).into(),
                    fes: FatalErrorStatus::InvalidHeaderField,
                });
            }
            // Its memory is being sent: it ends when that is over.
            Some(busy) if busy.is_sending() => busy.cqe = Some(cqe),
            _ => self.end(slot, cqe),
        }
        Ok(())
    }

    /// An R2T.
    fn solicited(&mut self, r2t: &R2t) -> Result<(), LinkError> {
        let Some(slot) = self.slots.find(r2t.cccid) else {
            return Err(LinkError::out_of_range(format!("R2T for command {}, which is not under way", r2t.cccid)));
        };
        let Some(busy) = self.slots.get_mut(slot) else { return Ok(()) };
        let Flow::OnDemand(len) = busy.flow else {
            return Err(LinkError::out_of_range(format!("R2T for command {}, which has no data to give", r2t.cccid)));
        };
        if r2t.r2to != busy.moved || r2t.r2tl > len - busy.moved {
            let (cid, at, n, moved) = (r2t.cccid, r2t.r2to, r2t.r2tl, busy.moved);
            return Err(LinkError::out_of_range(format!(
                "R2T for {n} bytes at {at} of command {cid}, of which {moved} of {len} were asked for before"
            )));
        }
        if busy.owed > 0 || busy.cqe.is_some() {
            return Err(LinkError::Protocol {
                what: format!("a second R2T for command {} before the first was answered", r2t.cccid).into(),
                fes: FatalErrorStatus::LimitExceeded,
            });
        }
        if matches!(busy.payload, Payload::None) {
            // Its slice has ended and taken its memory along: there is nothing to answer with, and no PDU to say so.
            return Err(LinkError::GivenUp("a write that had timed out was asked for its data".into()));
        }
        self.taken.add(Path::Solicited, 1);
        busy.moved += r2t.r2tl;
        busy.owed = r2t.r2tl;
        self.sender.solicit(slot, r2t.ttag, r2t.r2to, r2t.r2tl);
        Ok(())
    }

    /// The ICResp.
    fn initialized(&mut self, resp: &IcResp) -> Result<(), LinkError> {
        let granted = resp.digests;
        if granted.and(self.asked_digests) != granted {
            return Err(LinkError::sequence("ICResp turns on a digest that was not asked for"));
        }
        self.rules.framing.digests = granted;
        self.rules.max_data_bytes = self.max_transfer_bytes;
        self.sender.framing.digests = granted;
        self.sender.framing.alignment = resp.cpda;
        self.sender.max_h2c_bytes = resp.maxh2cdata;
        self.state = LinkState::Open;
        Ok(())
    }
}
