//! What waits to be sent: headers, laid one after the other, and data, sent from where it lies.
//!
//! A command or an answer to R2T is taken up only when there is room for it; what has been taken up is sent as it is,
//! many PDUs a system call.

use super::LinkError;
use super::payload::Payload;
use super::slots::{Flow, SlotId, Slots};
use crate::status::Counters;
use nvferry_io::stream::Stream;
use nvferry_io::vector::{IoVecs, MAX_PIECES};
use nvferry_wire::digest::Crc32c;
use nvferry_wire::pdu::{CapsuleCmd, DataEnd, DataPdu, Framing, MAX_HEADER_BYTES};
use nvferry_wire::{Sqe, TransferTag};
use std::collections::VecDeque;
use std::io;

/// Data that may wait to be sent beyond what the socket has taken; new work waits elsewhere, where it can still be
/// taken back.
const MAX_QUEUED_DATA_BYTES: usize = 512 << 10;

/// Pieces that may wait: what one system call takes, less what one more PDU needs.
const MAX_QUEUED_PIECES: usize = MAX_PIECES - 4;

#[derive(Debug, Clone, Copy)]
enum Piece {
    /// The next so many bytes of the headers.
    Header(usize),
    /// Data of a command, from its payload.
    Data { slot: SlotId, at: u32, len: u32, solicited: bool },
}

/// An R2T that is not answered in full.
#[derive(Debug, Clone, Copy)]
struct Solicited {
    slot: SlotId,
    ttag: TransferTag,
    at: u32,
    left: u32,
}

/// Whether everything has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendState {
    /// Nothing waits.
    Idle,
    /// The stream takes no more for now.
    Blocked,
}

#[derive(Debug)]
pub(super) struct Sender {
    pub(super) framing: Framing,
    /// The controller's limit for the data of one H2CData.
    pub(super) max_h2c_bytes: u32,
    headers: Vec<u8>,
    /// Bytes of `headers` that have left.
    headers_done: usize,
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that have left.
    front_done: usize,
    data_bytes: usize,
    solicited: VecDeque<Solicited>,
    scratch: [u8; MAX_HEADER_BYTES],
}

impl Sender {
    pub(super) fn new() -> Self {
        Self {
            framing: Framing::default(),
            max_h2c_bytes: 0,
            headers: Vec::with_capacity(16 << 10),
            headers_done: 0,
            pieces: VecDeque::with_capacity(256),
            front_done: 0,
            data_bytes: 0,
            solicited: VecDeque::new(),
            scratch: [0; MAX_HEADER_BYTES],
        }
    }

    /// Whether one more command, with its data, may be taken up.
    pub(super) fn has_room(&self) -> bool {
        self.pieces.len() < MAX_QUEUED_PIECES && self.data_bytes < MAX_QUEUED_DATA_BYTES
    }

    /// Whether nothing of a PDU has left that is not whole.
    pub(super) fn is_between_pdus(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Takes bytes that are a PDU by themselves.
    pub(super) fn push_raw(&mut self, bytes: &[u8]) {
        self.headers.extend_from_slice(bytes);
        self.push_header(bytes.len());
    }

    /// Takes up a command whose payload is in `slot`.
    pub(super) fn push_command<T>(&mut self, sqe: Sqe, slot: SlotId, slots: &mut Slots<T>) {
        let Some(busy) = slots.get_mut(slot) else { return };
        let data_bytes = if let Flow::InCapsule(len) = busy.flow { len } else { 0 };
        let n = CapsuleCmd { sqe, data_bytes }.encode(&self.framing, &mut self.scratch);
        self.headers.extend_from_slice(&self.scratch[..n]);
        self.push_header(n);
        if data_bytes > 0 {
            busy.leaving += 1;
            self.push_data(slot, 0, data_bytes, false, &busy.payload);
        }
    }

    /// Takes note of an R2T.
    pub(super) fn solicit(&mut self, slot: SlotId, ttag: TransferTag, at: u32, left: u32) {
        self.solicited.push_back(Solicited { slot, ttag, at, left });
    }

    /// Forgets the R2Ts of a command that has ended.
    pub(super) fn forget(&mut self, slot: SlotId) {
        self.solicited.retain(|solicited| solicited.slot != slot);
    }

    fn push_header(&mut self, len: usize) {
        if let Some(Piece::Header(last)) = self.pieces.back_mut() {
            *last += len;
        } else {
            self.pieces.push_back(Piece::Header(len));
        }
    }

    fn push_data(&mut self, slot: SlotId, at: u32, len: u32, solicited: bool, payload: &Payload) {
        self.pieces.push_back(Piece::Data { slot, at, len, solicited });
        self.data_bytes += len as usize;
        if self.framing.digests.data {
            let mut crc = Crc32c::new();
            payload.digest(&mut crc, at as usize..(at + len) as usize);
            self.headers.extend_from_slice(&crc.to_bytes());
            self.push_header(crc.to_bytes().len());
        }
    }

    /// Answers R2Ts as far as there is room.
    fn answer<T>(&mut self, slots: &mut Slots<T>) {
        while self.has_room() {
            let Some(mut next) = self.solicited.pop_front() else { return };
            let cccid = slots.cid(next.slot);
            let Some(busy) = slots.get_mut(next.slot) else { continue };
            let len = next.left.min(self.max_h2c_bytes);
            let end = if len == next.left { DataEnd::Last } else { DataEnd::More };
            let pdu = DataPdu { cccid, ttag: next.ttag, datao: next.at, datal: len, end };
            let n = pdu.encode_h2c(&self.framing, &mut self.scratch);
            self.headers.extend_from_slice(&self.scratch[..n]);
            self.push_header(n);
            busy.leaving += 1;
            self.push_data(next.slot, next.at, len, true, &busy.payload);
            next.at += len;
            next.left -= len;
            if next.left > 0 {
                self.solicited.push_front(next);
            }
        }
    }

    /// Sends until nothing waits or the stream takes no more. Commands whose last data left after their completion
    /// had come are appended to `released`.
    pub(super) fn flush<T>(
        &mut self,
        stream: &mut dyn Stream,
        vecs: &mut IoVecs,
        slots: &mut Slots<T>,
        released: &mut Vec<SlotId>,
        stats: &mut Counters,
    ) -> Result<SendState, LinkError> {
        loop {
            self.answer(slots);
            if self.pieces.is_empty() {
                return Ok(SendState::Idle);
            }
            let mut list = vecs.gather();
            let (mut header_at, mut skip) = (self.headers_done, self.front_done);
            for piece in &self.pieces {
                if !list.has_room() {
                    break;
                }
                match *piece {
                    Piece::Header(len) => {
                        list.push(&self.headers[header_at..header_at + len - skip]);
                        header_at += len - skip;
                    }
                    Piece::Data { slot, at, len, .. } => {
                        if let Some(busy) = slots.get(slot) {
                            busy.payload.gather(at as usize + skip..(at + len) as usize, &mut list);
                        }
                    }
                }
                skip = 0;
            }
            stats.sends += 1;
            match stream.send(&list) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(n) => self.sent(n, slots, released),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(SendState::Blocked),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes what has left off the list.
    fn sent<T>(&mut self, mut n: usize, slots: &mut Slots<T>, released: &mut Vec<SlotId>) {
        while let Some(piece) = self.pieces.front() {
            let len = match *piece {
                Piece::Header(len) => len,
                Piece::Data { len, .. } => len as usize,
            };
            let part = n.min(len - self.front_done);
            n -= part;
            self.front_done += part;
            if let Piece::Header(_) = piece {
                self.headers_done += part;
            }
            if self.front_done < len {
                break;
            }
            if let Piece::Data { slot, len, solicited, .. } = *piece {
                self.data_bytes -= len as usize;
                if let Some(busy) = slots.get_mut(slot) {
                    busy.leaving -= 1;
                    busy.owed -= if solicited { len } else { 0 };
                    if busy.leaving == 0 && busy.cqe.is_some() {
                        released.push(slot);
                    }
                }
            }
            self.pieces.pop_front();
            self.front_done = 0;
        }
        if self.pieces.is_empty() {
            self.headers.clear();
            self.headers_done = 0;
        } else if self.headers_done >= MAX_QUEUED_DATA_BYTES {
            self.headers.drain(..self.headers_done);
            self.headers_done = 0;
        }
    }
}
