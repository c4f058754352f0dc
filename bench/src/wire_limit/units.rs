//! A stream of units, each a header and a payload: how both sides receive and send them.

use super::Idle;
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recvmsg, sendmsg};
use nvferry_io::AlignedBuf;
use std::io::{IoSlice, IoSliceMut};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Payloads from this size up are received straight into their slots; smaller ones through a buffer and one copy.
const STRAIGHT_BYTES: usize = 16 << 10;
/// Bytes of the buffer that small units are received into.
const BULK_BYTES: usize = 1 << 20;
/// Units whose pieces go into one receive call.
const UNITS_PER_RECEIVE: usize = 8;
/// Pieces that one send call takes (IOV_MAX on Linux).
const PIECES_PER_SEND: usize = 1024;

/// The receiving side of a stream of units.
pub(super) struct Units {
    depth: usize,
    /// Payload memory, one slot for each outstanding request.
    pub(super) slots: AlignedBuf,
    headers: [[u8; 128]; UNITS_PER_RECEIVE],
    bulk: Vec<u8>,
    /// Bytes received of the unit that is not yet whole.
    got_bytes: usize,
    /// The slot that this unit goes to.
    pub(super) first: usize,
}

impl Units {
    /// Slots for `depth` payloads of `slot_bytes`, filled with `fill` so that every page is there.
    pub(super) fn new(depth: usize, slot_bytes: usize, fill: u8) -> Self {
        let mut slots = AlignedBuf::pages(depth * slot_bytes);
        slots.fill(fill);
        Self { depth, slots, headers: [[0; 128]; UNITS_PER_RECEIVE], bulk: vec![0; BULK_BYTES], got_bytes: 0, first: 0 }
    }

    /// Receives once. Tells how many units that made whole, `None` at the end of the stream.
    pub(super) fn take(
        &mut self,
        socket: &TcpStream,
        idle: Idle,
        header_bytes: usize,
        payload_bytes: usize,
    ) -> Result<Option<usize>> {
        let unit_bytes = header_bytes + payload_bytes;
        let received = if payload_bytes >= STRAIGHT_BYTES {
            let (before, from) = self.slots.split_at_mut(self.first * payload_bytes);
            let slots = from.chunks_exact_mut(payload_bytes).chain(before.chunks_exact_mut(payload_bytes));
            let mut pieces: Vec<IoSliceMut<'_>> = Vec::with_capacity(2 * UNITS_PER_RECEIVE);
            let mut skip = self.got_bytes;
            for (slot, header) in slots.zip(&mut self.headers) {
                if skip < header_bytes {
                    pieces.push(IoSliceMut::new(&mut header[skip..header_bytes]));
                    skip = header_bytes;
                }
                pieces.push(IoSliceMut::new(&mut slot[skip - header_bytes..]));
                skip = 0;
            }
            receive(socket, idle, &mut pieces)?
        } else {
            let received = receive(socket, idle, &mut [IoSliceMut::new(&mut self.bulk)])?;
            if payload_bytes > 0 {
                for part in self.bulk[..received].chunks(payload_bytes) {
                    self.slots[..part.len()].copy_from_slice(part);
                }
            }
            received
        };
        if received == 0 {
            return Ok(None);
        }
        self.got_bytes += received;
        let whole = self.got_bytes / unit_bytes;
        self.got_bytes %= unit_bytes;
        self.first = (self.first + whole) % self.depth;
        Ok(Some(whole))
    }
}

fn receive(socket: &TcpStream, idle: Idle, pieces: &mut [IoSliceMut<'_>]) -> Result<usize> {
    let flags = if idle == Idle::Spin { MsgFlags::MSG_DONTWAIT } else { MsgFlags::empty() };
    loop {
        match recvmsg::<()>(socket.as_raw_fd(), pieces, None, flags) {
            Ok(message) => return Ok(message.bytes),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot receive"),
        }
    }
}

/// Sends a header and its payload for each of `payloads`, in as few calls as the kernel allows.
pub(super) fn send_units<'a>(
    socket: &TcpStream,
    header: &[u8],
    payloads: impl ExactSizeIterator<Item = &'a [u8]>,
) -> Result<()> {
    let mut pieces: Vec<IoSlice<'_>> = Vec::with_capacity(2 * payloads.len());
    for payload in payloads {
        pieces.push(IoSlice::new(header));
        if !payload.is_empty() {
            pieces.push(IoSlice::new(payload));
        }
    }
    for part in pieces.chunks_mut(PIECES_PER_SEND) {
        let mut left = part;
        while !left.is_empty() {
            match sendmsg::<()>(socket.as_raw_fd(), left, &[], MsgFlags::MSG_NOSIGNAL, None) {
                Ok(sent) => IoSlice::advance_slices(&mut left, sent),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("cannot send"),
            }
        }
    }
    Ok(())
}
