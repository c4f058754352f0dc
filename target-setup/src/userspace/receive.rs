//! Taking PDUs in.
//!
//! Headers and small data come through a buffer that all connections of a worker share: one receive brings many
//! commands. The rest of a large payload is received straight into its command's buffer, with the shared buffer
//! behind it for what follows. Between receives a connection keeps no more than the beginning of a header.

use super::connection::{Connection, Phase, Stage};
use super::core::Core;
use super::counters::count;
use super::limits;
use super::worker::Scratch;
use nvferry_io::Stream;
use nvferry_io::fast_paths::Path;
use nvferry_wire::digest::{Crc32c, DIGEST_LEN};
use nvferry_wire::pdu::{
    COMMON_HEADER_LEN, CommonHeader, DataAlignment, DataPdu, FatalErrorStatus, Framing, IcReq, IcResp,
    MAX_HEADER_BYTES, PFV_1_0, Pdu, PduError, PduField, PduLayout, PduRules, Role, TermReq,
};
use std::io;
use std::time::Instant;

/// What comes next in the stream.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Receiving {
    /// A PDU's header.
    Header,
    /// Data.
    Data(DataPart),
    /// The digest of data that has arrived.
    Digest(DataPart),
}

/// The data of a PDU that is arriving.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DataPart {
    pub(crate) to: Destination,
    /// Bytes that are missing.
    pub(crate) left: usize,
    /// Of what has arrived, where digests are on.
    pub(crate) digest: Option<Crc32c>,
}

/// Where data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Into a command's buffer, from `at` on.
    Slot { slot: u16, at: usize },
    /// Nowhere: its command has failed already.
    Nowhere,
}

/// Whether to go on with the next bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    /// The data of this PDU has been taken, too.
    PastData,
    /// This PDU has to be looked at again later.
    Pause,
    /// Nothing more is wanted.
    Stop,
}

impl<S: Stream> Connection<S> {
    /// Receives what is there, within this connection's turn.
    pub(crate) fn receive(&mut self, core: &mut Core, scratch: &mut Scratch, now: Instant) {
        for _ in 0..limits::RECEIVES_PER_TURN {
            if !self.wants_read() || !self.receive_once(core, scratch, now) {
                break;
            }
        }
        self.note_debts(now);
    }

    /// One receive. Tells whether there may be more.
    fn receive_once(&mut self, core: &mut Core, scratch: &mut Scratch, now: Instant) -> bool {
        let Scratch { buffer, iovecs, .. } = scratch;
        let carried = self.carry_bytes;
        buffer[..carried].copy_from_slice(&self.carry[..carried]);
        let ahead = if self.asked > 0 {
            limits::RECEIVE_AHEAD_BYTES
        } else {
            // What follows is probably like what came last: then no capsule is cut in two.
            buffer.len() - buffer.len() % self.capsule_bytes - carried
        };
        let Some(stream) = &mut self.stream else { return false };

        let mut scatter = iovecs.scatter();
        let mut in_place = 0;
        if let Receiving::Data(DataPart { to: Destination::Slot { slot, at }, left, .. }) = self.receiving
            && !core.paths.in_place.is_off()
            && let Some((into, _)) = &mut self.slots[usize::from(slot)].buffer
        {
            scatter.push(&mut into[at..at + left]);
            in_place = left;
        }
        scatter.push(&mut buffer[carried..carried + ahead]);
        let offered = scatter.bytes();
        let received = match stream.recv(&mut scatter) {
            Ok(0) => {
                tracing::debug!(target: "nvferry::target", peer = self.ends.peer(), "the host closed its connection");
                self.ends_because("the host closed its connection");
                self.close(core);
                return false;
            }
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                tracing::debug!(target: "nvferry::target", peer = self.ends.peer(), %error, "connection ended while receiving");
                self.ends_because("the connection broke while receiving");
                self.close(core);
                return false;
            }
        };
        // Progress: whoever owes bytes gets new time.
        self.receive_progress += received;
        if self.receive_progress >= limits::MIN_PROGRESS_BYTES {
            self.receive_deadline = None;
        }
        let placed = received.min(in_place);
        core.taken.add(Path::PlacedBytes, placed as u64);
        self.data_arrived(placed);
        let bytes = &buffer[..carried + received - placed];
        self.carry_bytes = 0;
        self.take_in(core, bytes, now);
        received == offered
    }

    /// Notes whether the host owes bytes, and until when it must send some.
    pub(crate) fn note_debts(&mut self, now: Instant) {
        let in_pdu = self.carry_bytes > 0 || !matches!(self.receiving, Receiving::Header);
        let owes = matches!(self.phase, Phase::Opened | Phase::Live) && self.wants_read() && (in_pdu || self.asked > 0);
        if !owes {
            self.receive_deadline = None;
        } else if self.receive_deadline.is_none() {
            self.receive_deadline = Some(now + limits::RECEIVE_STALL_TIMEOUT);
            self.receive_progress = 0;
        }
    }

    /// Goes on with bytes that were received before.
    pub(crate) fn resume(&mut self, core: &mut Core, now: Instant) {
        self.paused = false;
        let bytes = std::mem::take(&mut self.leftover);
        self.take_in(core, &bytes, now);
        self.note_debts(now);
    }

    /// Takes bytes in, in the order in which they came.
    fn take_in(&mut self, core: &mut Core, bytes: &[u8], now: Instant) {
        let mut rest = bytes;
        loop {
            if matches!(self.phase, Phase::Lingering | Phase::Closed) {
                return;
            }
            if self.moving_to.is_some() {
                self.leftover.extend_from_slice(rest);
                return;
            }
            match self.receiving {
                Receiving::Header if self.has_backlog() && !rest.is_empty() => {
                    // A host that does not take its answers gets no more of them; sending resumes this.
                    self.leftover = rest.to_vec();
                    self.paused = true;
                    return;
                }
                Receiving::Header => {
                    let Some(used) = self.take_header(core, rest, now) else { return };
                    rest = &rest[used..];
                }
                Receiving::Data(part) => {
                    let n = part.left.min(rest.len());
                    let (data, after) = rest.split_at(n);
                    rest = after;
                    if let Destination::Slot { slot, at } = part.to
                        && let Some((into, _)) = &mut self.slots[usize::from(slot)].buffer
                    {
                        into[at..at + n].copy_from_slice(data);
                        core.taken.add(Path::CopiedBytes, n as u64);
                        self.data_arrived(n);
                    } else {
                        self.receiving = Receiving::Data(DataPart { left: part.left - n, ..part });
                    }
                    let Receiving::Data(part) = self.receiving else { return };
                    if part.left > 0 {
                        return;
                    }
                    match part.digest {
                        Some(_) => self.receiving = Receiving::Digest(part),
                        None => self.data_complete(core, part, true, now),
                    }
                }
                Receiving::Digest(part) => {
                    let Some((digest, after)) = rest.split_first_chunk::<DIGEST_LEN>() else {
                        self.carry(rest);
                        return;
                    };
                    rest = after;
                    core.taken.add(Path::DataDigests, 1);
                    let matches = match part.to {
                        // What belongs nowhere was not looked at.
                        Destination::Nowhere => true,
                        Destination::Slot { .. } => part.digest.is_none_or(|computed| computed.to_bytes() == *digest),
                    };
                    if !matches {
                        count(&core.subsystem.faults.digest_errors);
                    }
                    self.data_complete(core, part, matches, now);
                }
            }
        }
    }

    /// Keeps the beginning of a header or digest for the next receive.
    fn carry(&mut self, bytes: &[u8]) {
        // Shorter than the header or digest that it begins, which is at most MAX_HEADER_BYTES long.
        let n = bytes.len().min(MAX_HEADER_BYTES);
        self.carry[..n].copy_from_slice(&bytes[..n]);
        self.carry_bytes = n;
    }

    /// `n` bytes of data are in their command's buffer.
    fn data_arrived(&mut self, n: usize) {
        if n == 0 {
            return;
        }
        if let Receiving::Data(part) = &mut self.receiving
            && let Destination::Slot { slot, at } = &mut part.to
        {
            if let (Some(digest), Some((buffer, _))) = (&mut part.digest, &self.slots[usize::from(*slot)].buffer) {
                digest.update(&buffer[*at..*at + n]);
            }
            *at += n;
            part.left -= n;
        }
    }

    /// Takes a header in. Tells how many bytes that took, or nothing when this cannot go on now.
    fn take_header(&mut self, core: &mut Core, bytes: &[u8], now: Instant) -> Option<usize> {
        let Some(common) = bytes.first_chunk::<COMMON_HEADER_LEN>() else {
            self.carry(bytes);
            return None;
        };
        let common = match CommonHeader::decode(common, &self.rules) {
            Ok(common) => common,
            Err(error) => return self.refuse(core, &error, &bytes[..COMMON_HEADER_LEN], now),
        };
        let layout = common.layout();
        let header_bytes = layout.data_offset();
        if bytes.len() < header_bytes {
            self.carry(bytes);
            return None;
        }
        let (header, behind) = bytes.split_at(header_bytes);
        core.taken.add(Path::HeaderDigests, self.rules.framing.digests.header.into());
        if let Err(error) = layout.check_header_digest(header) {
            count(&core.subsystem.faults.digest_errors);
            return self.refuse(core, &error, header, now);
        }
        let pdu = match Pdu::decode(&common, header) {
            Ok(pdu) => pdu,
            Err(error) => return self.refuse(core, &error, header, now),
        };
        match self.take_pdu(core, &pdu, &layout, (header, behind), now) {
            Flow::Next => Some(header_bytes),
            Flow::PastData => Some(layout.total_bytes() as usize),
            Flow::Pause => {
                self.leftover = bytes.to_vec();
                self.paused = true;
                core.resumable.push_back(self.key);
                None
            }
            Flow::Stop => None,
        }
    }

    fn refuse(&mut self, core: &mut Core, error: &PduError, header: &[u8], now: Instant) -> Option<usize> {
        tracing::warn!(target: "nvferry::target", peer = self.ends.peer(), %error, "a host sent what NVMe/TCP does not allow");
        self.terminate(core, TermReq::for_error(error), header, now);
        None
    }

    fn out_of_sequence(&mut self, core: &mut Core, header: &[u8], now: Instant) -> Flow {
        self.terminate(core, TermReq { fes: FatalErrorStatus::PduSequenceError, fei: 0 }, header, now);
        Flow::Stop
    }

    /// Takes a PDU, of which its header has come, and something behind that.
    fn take_pdu(
        &mut self,
        core: &mut Core,
        pdu: &Pdu,
        layout: &PduLayout,
        (header, behind): (&[u8], &[u8]),
        now: Instant,
    ) -> Flow {
        match (pdu, self.phase) {
            (Pdu::IcReq(request), Phase::Opening) => {
                self.open(core, request);
                Flow::Next
            }
            (Pdu::CapsuleCmd(capsule), Phase::Opened | Phase::Live) => {
                match self.take_command(core, &capsule.sqe, layout, behind, now) {
                    Ok(flow) => flow,
                    Err(reason) => {
                        self.terminate(core, reason, header, now);
                        Flow::Stop
                    }
                }
            }
            (Pdu::H2cData(data), Phase::Opened | Phase::Live) => match self.take_data(data, layout) {
                Ok(()) => Flow::Next,
                Err(reason) => {
                    self.terminate(core, reason, header, now);
                    Flow::Stop
                }
            },
            (Pdu::H2cTermReq(reason), _) => {
                tracing::warn!(target: "nvferry::target", peer = self.ends.peer(), reason = %reason.fes, fei = reason.fei, "a host ended its connection because of an error");
                count(&core.subsystem.faults.protocol_errors);
                self.ends_because("the host ended it because of an error");
                self.close(core);
                Flow::Stop
            }
            _ => self.out_of_sequence(core, header, now),
        }
    }

    /// Agrees on what the host asked for (TCP transport 3.6.2.2).
    fn open(&mut self, core: &mut Core, request: &IcReq) {
        self.phase = Phase::Opened;
        self.framing = Framing { digests: request.digests, alignment: request.hpda };
        let cpda = DataAlignment::NONE;
        self.rules = PduRules {
            receiver: Role::Controller,
            framing: Framing { digests: request.digests, alignment: cpda },
            max_capsule_data_bytes: limits::MAX_IN_CAPSULE_BYTES,
            max_data_bytes: limits::MAX_H2C_DATA_BYTES,
        };
        let response = IcResp { pfv: PFV_1_0, cpda, digests: request.digests, maxh2cdata: limits::MAX_H2C_DATA_BYTES };
        self.sending.push(super::send::Payload::Nothing, None, |out| response.encode(out));
        core.has_to_send(self.key.index);
    }

    /// Data that was asked for: it must be the next of its command.
    fn take_data(&mut self, data: &DataPdu, layout: &PduLayout) -> Result<(), TermReq> {
        let invalid = |field: PduField| TermReq { fes: FatalErrorStatus::InvalidHeaderField, fei: field.0.into() };
        let slot = self.slots.get(usize::from(data.ttag.0)).filter(|slot| slot.stage == Stage::Asked);
        let slot = slot.ok_or(invalid(PduField::TTAG))?;
        if slot.sqe.cid() != data.cccid {
            return Err(invalid(PduField::CCCID));
        }
        if data.datao != slot.received {
            return Err(invalid(PduField::OFFSET));
        }
        let left = slot.data_bytes - slot.received;
        if data.datal > left {
            return Err(TermReq { fes: FatalErrorStatus::DataOutOfRange, fei: PduField::LENGTH.0.into() });
        }
        if data.datal == 0 || (data.end.is_last() && data.datal < left) {
            // Nothing at all would hold the buffer for ever; a last part must complete the transfer.
            return Err(invalid(PduField::LENGTH));
        }
        let to = Destination::Slot { slot: data.ttag.0, at: slot.received as usize };
        self.expect_data(to, layout);
        Ok(())
    }

    /// The data of a PDU comes next.
    pub(crate) fn expect_data(&mut self, to: Destination, layout: &PduLayout) {
        let digest = (layout.data_digest_bytes > 0).then(Crc32c::new);
        self.receiving = Receiving::Data(DataPart { to, left: layout.data_bytes as usize, digest });
    }

    /// All data of a PDU is there.
    fn data_complete(&mut self, core: &mut Core, part: DataPart, digest_matches: bool, now: Instant) {
        self.receiving = Receiving::Header;
        let Destination::Slot { slot: index, at } = part.to else { return };
        let slot = &mut self.slots[usize::from(index)];
        slot.corrupt |= !digest_matches;
        match slot.stage {
            Stage::Capsule => self.data_ready(core, index, now),
            Stage::Asked => {
                // At most the command's data, which a u32 counts.
                slot.received = at as u32;
                if slot.received == slot.data_bytes {
                    self.asked -= 1;
                    slot.stage = Stage::Ready;
                    self.data_ready(core, index, now);
                }
            }
            _ => {}
        }
    }
}
