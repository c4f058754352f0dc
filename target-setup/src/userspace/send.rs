//! What waits to be sent on a connection, and how much of it has been.
//!
//! Each entry is one PDU: its header (with digest and padding), its data where it lies, and the data's digest. Many
//! PDUs leave in one system call; a call that takes only a part is continued where it stopped. Data that is pages of a
//! file leaves by a call of its own.

use super::core::LentPages;
use nvferry_io::vector::{Gather, IoVecs};
use nvferry_io::{PoolBuf, Stream};
use nvferry_wire::digest::DIGEST_LEN;
use nvferry_wire::pdu::MAX_HEADER_BYTES;
use std::collections::VecDeque;
use std::io;

/// The data of a PDU.
pub(crate) enum Payload {
    /// None.
    Nothing,
    /// The first bytes of a pool's buffer.
    Pool(PoolBuf, usize),
    /// Bytes of their own.
    Bytes(Box<[u8]>),
    /// Pages of a file, and how many bytes they were at first.
    Pages(LentPages, usize),
}

impl Payload {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Nothing | Self::Pages(..) => &[],
            Self::Pool(buffer, len) => &buffer[..*len],
            Self::Bytes(bytes) => bytes,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Pages(_, len) => *len,
            other => other.as_slice().len(),
        }
    }

    /// Bytes of pool memory that it keeps.
    fn held_bytes(&self) -> usize {
        match self {
            Self::Pool(buffer, _) => buffer.len(),
            Self::Nothing | Self::Bytes(_) | Self::Pages(..) => 0,
        }
    }
}

/// A PDU's header, with digest and padding. Most are short, and many wait at once: only long ones are kept apart.
enum Header {
    Short([u8; SHORT_HEADER_BYTES]),
    Long(Box<[u8; MAX_HEADER_BYTES]>),
}

/// A data PDU's header with its digest, also where data is aligned to 32 bytes.
const SHORT_HEADER_BYTES: usize = 32;

struct Outgoing {
    header: Header,
    header_bytes: u8,
    payload: Payload,
    digest: Option<[u8; DIGEST_LEN]>,
}

impl Outgoing {
    fn header(&self) -> &[u8] {
        let bytes = usize::from(self.header_bytes);
        match &self.header {
            Header::Short(header) => &header[..bytes],
            Header::Long(header) => &header[..bytes],
        }
    }

    fn pieces(&self) -> [&[u8]; 3] {
        let digest: &[u8] = self.digest.as_ref().map_or(&[], |digest| digest);
        [self.header(), self.payload.as_slice(), digest]
    }

    fn len(&self) -> usize {
        usize::from(self.header_bytes) + self.payload.len() + self.digest.map_or(0, |digest| digest.len())
    }
}

/// How sending ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Everything has been taken.
    All,
    /// The stream takes no more now.
    Blocked,
}

/// PDUs that wait to be sent.
#[derive(Default)]
pub(crate) struct SendQueue {
    queue: VecDeque<Outgoing>,
    /// Bytes of the first PDU that are sent already.
    front_sent: usize,
    /// Bytes not yet sent.
    waiting_bytes: usize,
    /// Bytes of pool memory that the PDUs keep.
    held_bytes: usize,
}

impl SendQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes not yet sent.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Bytes of pool memory that wait to be sent.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Appends a PDU: `encode` writes its header and says how long that is.
    pub(crate) fn push(
        &mut self,
        payload: Payload,
        digest: Option<[u8; DIGEST_LEN]>,
        encode: impl FnOnce(&mut [u8; MAX_HEADER_BYTES]) -> usize,
    ) {
        let mut encoded = [0; MAX_HEADER_BYTES];
        let bytes = encode(&mut encoded);
        let header = match encoded.first_chunk() {
            Some(short) if bytes <= SHORT_HEADER_BYTES => Header::Short(*short),
            _ => Header::Long(Box::new(encoded)),
        };
        // Headers, padding included, have at most MAX_HEADER_BYTES, which a byte counts.
        let pdu = Outgoing { header, header_bytes: bytes as u8, payload, digest };
        self.waiting_bytes += pdu.len();
        self.held_bytes += pdu.payload.held_bytes();
        self.queue.push_back(pdu);
    }

    /// Sends until everything is sent or the stream takes no more. Tells how many bytes it took, and how that ended.
    /// Empty pages go to `empty`.
    pub(crate) fn send(
        &mut self,
        stream: &mut impl Stream,
        scratch: &mut IoVecs,
        empty: &mut Vec<LentPages>,
    ) -> io::Result<(usize, Sent)> {
        let mut total = 0;
        while !self.queue.is_empty() {
            let (offered, taken) = match self.send_once(stream, scratch) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((total, Sent::Blocked)),
                Err(error) => return Err(error),
            };
            self.advance(taken, empty);
            total += taken;
            if taken < offered {
                return Ok((total, Sent::Blocked));
            }
        }
        Ok((total, Sent::All))
    }

    /// Sends the first bytes that one call can send. Tells how many were offered, and how many taken.
    fn send_once(&mut self, stream: &mut impl Stream, scratch: &mut IoVecs) -> io::Result<(usize, usize)> {
        let is_last = self.queue.len() == 1;
        if let Some(Outgoing { header_bytes, payload: Payload::Pages(lent, _), .. }) = self.queue.front_mut()
            && self.front_sent >= usize::from(*header_bytes)
        {
            let pages = &mut lent.pages;
            return Ok((pages.held_bytes(), stream.send_pages(pages, !is_last)?));
        }
        let mut gather = scratch.gather();
        let pages_follow = self.fill(&mut gather);
        let offered = gather.bytes();
        let taken = if pages_follow { stream.send_before(&gather) } else { stream.send(&gather) };
        Ok((offered, taken?))
    }

    /// Lists what one call can send, up to data that is pages. Tells whether that follows.
    fn fill<'a>(&'a self, gather: &mut Gather<'a>) -> bool {
        let mut skip = self.front_sent;
        for pdu in &self.queue {
            for piece in pdu.pieces() {
                if !gather.has_room() {
                    return false;
                }
                let skipped = skip.min(piece.len());
                skip -= skipped;
                gather.push(&piece[skipped..]);
            }
            if matches!(pdu.payload, Payload::Pages(..)) {
                return true;
            }
        }
        false
    }

    fn advance(&mut self, sent: usize, empty: &mut Vec<LentPages>) {
        self.waiting_bytes -= sent;
        self.front_sent += sent;
        while let Some(front) = self.queue.front() {
            let len = front.len();
            if self.front_sent < len {
                break;
            }
            self.front_sent -= len;
            self.held_bytes -= front.payload.held_bytes();
            if let Some(Outgoing { payload: Payload::Pages(lent, _), .. }) = self.queue.pop_front() {
                empty.push(lent);
            }
        }
    }

    /// Forgets everything: the connection is gone.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
