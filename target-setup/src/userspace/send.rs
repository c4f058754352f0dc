//! What waits to be sent on a connection, and how much of it has been.
//!
//! Each entry is one PDU: its header (with digest and padding), its data where it lies, and the data's digest. Many
//! PDUs leave in one system call; a call that takes only a part is continued where it stopped.

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
}

impl Payload {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Nothing => &[],
            Self::Pool(buffer, len) => &buffer[..*len],
            Self::Bytes(bytes) => bytes,
        }
    }

    /// Bytes of pool memory that it keeps.
    fn held_bytes(&self) -> usize {
        match self {
            Self::Pool(buffer, _) => buffer.len(),
            Self::Nothing | Self::Bytes(_) => 0,
        }
    }
}

struct Outgoing {
    header: [u8; MAX_HEADER_BYTES],
    header_bytes: u8,
    payload: Payload,
    digest: Option<[u8; DIGEST_LEN]>,
}

impl Outgoing {
    fn pieces(&self) -> [&[u8]; 3] {
        let digest: &[u8] = self.digest.as_ref().map_or(&[], |digest| digest);
        [&self.header[..usize::from(self.header_bytes)], self.payload.as_slice(), digest]
    }

    fn len(&self) -> usize {
        self.pieces().iter().map(|piece| piece.len()).sum()
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
        let mut pdu = Outgoing { header: [0; MAX_HEADER_BYTES], header_bytes: 0, payload, digest };
        // Headers, padding included, have at most MAX_HEADER_BYTES, which a byte counts.
        pdu.header_bytes = encode(&mut pdu.header) as u8;
        self.waiting_bytes += pdu.len();
        self.held_bytes += pdu.payload.held_bytes();
        self.queue.push_back(pdu);
    }

    /// Sends until everything is sent or the stream takes no more. Tells how many bytes it took, and how that ended.
    pub(crate) fn send(&mut self, stream: &mut impl Stream, scratch: &mut IoVecs) -> io::Result<(usize, Sent)> {
        let mut total = 0;
        while !self.queue.is_empty() {
            let mut gather = scratch.gather();
            self.fill(&mut gather);
            let offered = gather.bytes();
            match stream.send(&gather) {
                Ok(taken) => {
                    self.advance(taken);
                    total += taken;
                    if taken < offered {
                        return Ok((total, Sent::Blocked));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((total, Sent::Blocked)),
                Err(error) => return Err(error),
            }
        }
        Ok((total, Sent::All))
    }

    fn fill<'a>(&'a self, gather: &mut Gather<'a>) {
        let mut skip = self.front_sent;
        for pdu in &self.queue {
            for piece in pdu.pieces() {
                if !gather.has_room() {
                    return;
                }
                let skipped = skip.min(piece.len());
                skip -= skipped;
                gather.push(&piece[skipped..]);
            }
        }
    }

    fn advance(&mut self, sent: usize) {
        self.waiting_bytes -= sent;
        self.front_sent += sent;
        while let Some(front) = self.queue.front() {
            let len = front.len();
            if self.front_sent < len {
                break;
            }
            self.front_sent -= len;
            self.held_bytes -= front.payload.held_bytes();
            self.queue.pop_front();
        }
    }

    /// Forgets everything: the connection is gone.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
