//! The wire: connections in memory whose bytes arrive when the scheduler says, in pieces, and that are cut, silenced and
//! corrupted.

use crate::plan::{MS, SECOND, US, WireFaults};
use crate::random::Random;
use nvferry_io::pages::Pages;
use nvferry_io::poller::Event;
use nvferry_io::simulation::Socket;
use nvferry_io::stream::{Cut, LinkState, MemoryLink, MemoryStream, Stream, memory_pair};
use nvferry_io::{Gather, Scatter};
use nvferry_wire::pdu::{COMMON_HEADER_LEN, PduType};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

/// Bytes of ICReq and ICResp, which no digest covers.
const IC_BYTES: u64 = 128;

/// Flips bits of PDUs' headers: follows the PDUs that pass.
struct HeaderFlips {
    random: Random,
    /// Of 1000 headers, those in which one is flipped.
    per_mille: u64,
    /// Where the PDU begins that passes now, and the first bytes of its header.
    pdu: u64,
    common: [u8; COMMON_HEADER_LEN],
    /// The byte of it to be changed, counted from its first, and how.
    flip: Option<(u64, u8)>,
}

impl HeaderFlips {
    fn new(per_mille: u64, random: Random) -> Self {
        Self { random, per_mille, pdu: 0, common: [0; COMMON_HEADER_LEN], flip: None }
    }

    /// These bytes pass, of which the first is at this position.
    fn pass(&mut self, at: u64, bytes: &mut [u8]) {
        let mut passed = 0;
        while passed < bytes.len() {
            let within = at + passed as u64 - self.pdu;
            if let Some(common) = self.common.get_mut(within as usize) {
                *common = bytes[passed];
                passed += 1;
                if within as usize == COMMON_HEADER_LEN - 1 {
                    self.choose();
                }
                continue;
            }
            let n = (self.pdu_bytes() - within).min((bytes.len() - passed) as u64);
            if let Some((byte, bit)) = self.flip.take_if(|(byte, _)| (within..within + n).contains(&*byte)) {
                bytes[passed + (byte - within) as usize] ^= 1 << bit;
            }
            passed += n as usize;
            if within + n == self.pdu_bytes() {
                self.pdu += within + n;
            }
        }
    }

    fn pdu_bytes(&self) -> u64 {
        let [_, _, _, _, plen @ ..] = self.common;
        // More than a common header, so that there is an end to anything.
        u64::from(u32::from_le_bytes(plen)).max(COMMON_HEADER_LEN as u64 + 1)
    }

    /// A header begins: is a bit of it flipped, and which? Often one of the lower bits of a field that matters.
    fn choose(&mut self) {
        let [kind, _, header_bytes, ..] = self.common;
        self.flip = None;
        if self.pdu < IC_BYTES || !self.random.rarely(self.per_mille) {
            return;
        }
        self.flip = Some(if self.random.chance(40) {
            let byte = self.random.within(COMMON_HEADER_LEN as u64, u64::from(header_bytes).max(9) - 1);
            (byte, self.random.below(8) as u8)
        } else {
            // Opcode, identifier, namespace, first block and blocks of a command; of others identifiers, offsets and lengths, or
            // the status, and most often the identifier: what is meant for one command is then for another.
            let fields: &[u64; 6] = match PduType::from_u8(kind) {
                Some(PduType::CapsuleCmd) => &[8, 10, 12, 48, 49, 56],
                Some(PduType::CapsuleResp) => &[20, 20, 20, 8, 17, 22],
                Some(PduType::C2hData) => &[8, 8, 8, 8, 13, 17],
                _ => &[8, 8, 10, 10, 13, 17],
            };
            (self.random.pick(fields), self.random.below(4) as u8)
        });
    }
}

/// Where a connection stands, for the host's end of it.
const CONNECTING: u8 = 0;
const CONNECTED: u8 = 1;
const REFUSED: u8 = 2;
/// The host has closed its end.
const CLOSED: u8 = 3;
/// The host is told that it has ended, and the target is not yet.
const STRANDED: u8 = 4;

/// The host's end of a connection.
#[derive(Debug)]
pub(crate) struct HostEnd {
    stream: MemoryStream,
    state: Arc<AtomicU8>,
    unheard: Unheard,
}

/// The host's end of a connection that it has closed after it was stranded, until the target hears of it.
type Unheard = Arc<Mutex<Option<MemoryStream>>>;

impl HostEnd {
    /// Something can be received.
    #[must_use]
    pub(crate) fn is_readable(&self) -> bool {
        self.stream.readable() || self.check().is_err()
    }

    /// Something can be sent.
    #[must_use]
    pub(crate) fn is_writable(&self) -> bool {
        self.stream.writable() || self.check().is_err()
    }

    fn check(&self) -> io::Result<()> {
        if self.state.load(Ordering::Relaxed) == STRANDED { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl Stream for HostEnd {
    fn recv(&mut self, into: &mut Scatter<'_>) -> io::Result<usize> {
        self.check()?;
        self.stream.recv(into)
    }

    fn send(&mut self, from: &Gather<'_>) -> io::Result<usize> {
        self.check()?;
        self.stream.send(from)
    }

    fn send_pages(&mut self, pages: &mut Pages, more: bool) -> io::Result<usize> {
        self.check()?;
        self.stream.send_pages(pages, more)
    }
}

impl Socket for HostEnd {
    fn is_connected(&mut self) -> io::Result<bool> {
        match self.state.load(Ordering::Relaxed) {
            CONNECTING => Ok(false),
            CONNECTED => Ok(true),
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

impl Drop for HostEnd {
    fn drop(&mut self) {
        if self.state.swap(CLOSED, Ordering::Relaxed) == STRANDED
            && let Ok(mut unheard) = self.unheard.lock()
        {
            let (nothing, _) = memory_pair(1);
            *unheard = Some(std::mem::replace(&mut self.stream, nothing));
        }
    }
}

/// One way of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the host.
    ToTarget,
    /// From the target.
    ToHost,
}

/// What has happened to a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct News {
    /// Nothing can happen on it any more.
    pub(crate) is_over: bool,
    /// Bytes wait on this way that no delivery is on its way for: to the target, and to the host.
    pub(crate) deliver: [bool; 2],
    /// It has just become silent: the kernels on both sides will take the other for dead.
    pub(crate) falls_silent: bool,
    /// The host loses it now, and the target does not know.
    pub(crate) is_stranded: bool,
    /// The host's poller has something to tell besides bytes that arrived: room, or the end.
    pub(crate) tells_host: bool,
}

/// A connection.
pub(crate) struct Connection {
    /// The host's part that made it.
    pub(crate) owner: (usize, usize),
    token: u64,
    /// Where it leads.
    pub(crate) address: SocketAddr,
    /// The target that has it, once it has been accepted.
    pub(crate) target: Option<usize>,
    state: Arc<AtomicU8>,
    unheard: Unheard,
    /// The target's end, until it is accepted.
    target_end: Option<MemoryStream>,
    links: [MemoryLink; 2],
    /// A delivery is on its way.
    delivering: [bool; 2],
    was_writable: bool,
    was_ended: bool,
    /// It is silent, and the kernels have begun to count.
    is_counted: bool,
    /// After so many bytes the host loses it, and the target does not know.
    strand_at: Option<u64>,
    /// Nothing arrives at the target before.
    late_until: u64,
}

impl Connection {
    /// A connection that is being made.
    pub(crate) fn new(
        owner: (usize, usize),
        token: u64,
        address: SocketAddr,
        faults: &WireFaults,
        random: &mut Random,
        healed: bool,
    ) -> (Self, HostEnd) {
        let (host, target) = memory_pair(faults.capacity);
        let links = [host.outgoing(), host.incoming()];
        links.iter().for_each(MemoryLink::hold);
        let state = Arc::new(AtomicU8::new(CONNECTING));
        let unheard = Unheard::default();
        let end = HostEnd { stream: host, state: Arc::clone(&state), unheard: Arc::clone(&unheard) };
        let mut connection = Self {
            owner,
            token,
            address,
            target: None,
            state,
            unheard,
            target_end: Some(target),
            links,
            delivering: [false; 2],
            was_writable: true,
            was_ended: false,
            is_counted: false,
            strand_at: None,
            late_until: 0,
        };
        if !healed {
            connection.strand_at =
                // Beyond what it takes to connect a queue.
                random.chance(faults.strandings).then(|| random.within(1_300, 30_000));
            connection.plan_faults(faults, random);
        }
        (connection, end)
    }

    fn plan_faults(&self, faults: &WireFaults, random: &mut Random) {
        for link in &self.links {
            if random.chance(faults.cuts) {
                let cut = match random.below(if faults.silence { 3 } else { 2 }) {
                    0 => Cut::Close,
                    1 => Cut::Reset,
                    _ => Cut::Silence,
                };
                link.cut_at(random.size(1 << 20), cut);
            }
            if faults.header_flips > 0 {
                let mut flips = HeaderFlips::new(faults.header_flips, random.fork());
                link.tamper(move |at, bytes| flips.pass(at, bytes));
            }
            while random.chance(faults.flips) {
                link.flip_bit(IC_BYTES + random.size(1 << 18), random.below(8) as u8);
            }
        }
    }

    /// Faults are over.
    pub(crate) fn heal(&mut self) {
        self.links.iter().for_each(MemoryLink::forget_plans);
        self.strand_at = None;
    }

    /// The host still has its end.
    pub(crate) fn is_open(&self) -> bool {
        self.state.load(Ordering::Relaxed) != CLOSED
    }

    /// It is made: the target's end, to be accepted.
    pub(crate) fn establish(&mut self, target: usize) -> Option<MemoryStream> {
        self.target = Some(target);
        // A host that has closed its end meanwhile has still made a connection.
        let _ = self.state.compare_exchange(CONNECTING, CONNECTED, Ordering::Relaxed, Ordering::Relaxed);
        self.target_end.take()
    }

    /// It cannot be made.
    pub(crate) fn refuse(&mut self) {
        let _ = self.state.compare_exchange(CONNECTING, REFUSED, Ordering::Relaxed, Ordering::Relaxed);
        self.target_end = None;
    }

    /// Cuts it now.
    pub(crate) fn cut(&self, cut: Cut) {
        match cut {
            Cut::Silence => self.links.iter().for_each(|link| link.cut(cut)),
            Cut::Close | Cut::Reset => self.links[0].cut(cut),
        }
    }

    /// Whether it is one of this host's to this target.
    pub(crate) fn is_between(&self, host: usize, target: Option<usize>) -> bool {
        self.owner.0 == host && self.target == target
    }

    /// The host is told that it has ended; what it has sent is still on its way to the target, until then, and what the
    /// target sends goes nowhere. Tells whether that could be: there was such a connection.
    pub(crate) fn strand(&mut self, late_until: u64) -> bool {
        let stranded = self.state.compare_exchange(CONNECTED, STRANDED, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if stranded {
            self.links[Way::ToHost as usize].cut(Cut::Silence);
            // The kernels hear of it from each other, in the end.
            (self.late_until, self.is_counted) = (late_until, true);
        }
        stranded
    }

    /// The kernels take each other for dead.
    pub(crate) fn is_taken_for_dead(&self) {
        self.cut(Cut::Reset);
        if let Ok(mut unheard) = self.unheard.lock() {
            *unheard = None;
        }
    }

    /// When what is on this way now may arrive at the earliest.
    pub(crate) fn late_until(&self, way: Way) -> u64 {
        if way == Way::ToTarget { self.late_until } else { 0 }
    }

    /// Looks at what has happened to it since this was last asked.
    pub(crate) fn look(&mut self) -> News {
        let [out, back] = self.links[0].states();
        let is_quiet = |state: &LinkState| state.ended && state.held_bytes == 0;
        let is_open = self.is_open();
        let mut is_due = |way: Way, state: &LinkState| {
            let due = !self.delivering[way as usize] && state.held_bytes > 0;
            self.delivering[way as usize] |= due;
            due
        };
        let deliver = [is_due(Way::ToTarget, &out), is_due(Way::ToHost, &back)];
        let silent = out.silent || back.silent;
        let falls_silent = silent && !std::mem::replace(&mut self.is_counted, silent);
        let (writable, ended) = (out.can_send, is_quiet(&back));
        let news = (writable && !self.was_writable) || (ended && !self.was_ended);
        (self.was_writable, self.was_ended) = (writable, ended);
        let is_stranded = self.strand_at.take_if(|at| self.links[0].sent_bytes() >= *at).is_some();
        News {
            is_stranded,
            is_over: !is_open && self.target_end.is_none() && is_quiet(&out) && is_quiet(&back),
            deliver,
            falls_silent,
            tells_host: news && is_open && self.state.load(Ordering::Relaxed) != CONNECTING,
        }
    }

    /// Lets bytes arrive, and tells how many did.
    pub(crate) fn deliver(&mut self, way: Way, faults: &WireFaults, random: &mut Random, healed: bool) -> usize {
        self.delivering[way as usize] = false;
        let bytes = match faults.chunk_bytes {
            0 => usize::MAX,
            // What is checked at the end would take most of the time.
            _ if healed => usize::MAX,
            most => random.size(most) as usize,
        };
        self.links[way as usize].deliver(bytes)
    }

    /// What the host's poller tells.
    pub(crate) fn event(&self) -> Event {
        let [out, back] = self.links[0].states();
        let gone = matches!(self.state.load(Ordering::Relaxed), REFUSED | STRANDED);
        Event {
            token: self.token,
            readable: back.can_recv || gone,
            writable: out.can_send || gone,
            closed: gone,
            ending: (back.ended && back.held_bytes == 0) || gone,
        }
    }
}

/// How long bytes take.
pub(crate) fn latency(faults: &WireFaults, random: &mut Random, healed: bool) -> u64 {
    if !healed && random.rarely(faults.stalls) {
        return random.within(100 * MS, 20 * SECOND);
    }
    5 * US + random.size(faults.latency)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_of_some_headers_is_flipped_however_the_stream_is_cut() {
        // ICReq, then command capsules with data.
        let (header_bytes, pdu_bytes) = (72, 172);
        let mut sent = vec![0; IC_BYTES as usize];
        (sent[2], sent[4]) = (128, 128);
        for _ in 0..100 {
            let start = sent.len();
            sent.resize(start + pdu_bytes, 7);
            sent[start..start + 8].copy_from_slice(&[4, 0, header_bytes as u8, 0, pdu_bytes as u8, 0, 0, 0]);
        }
        let pass = |pieces: usize| {
            let (mut flips, mut got) = (HeaderFlips::new(300, Random::new(5)), sent.clone());
            for (at, piece) in (0..).step_by(pieces).zip(got.chunks_mut(pieces)) {
                flips.pass(at, piece);
            }
            got
        };
        let got = pass(usize::MAX >> 1);
        assert_eq!(got[..IC_BYTES as usize], sent[..IC_BYTES as usize]);
        let mut damaged = 0;
        for (got, sent) in got[IC_BYTES as usize..].chunks(pdu_bytes).zip(sent[IC_BYTES as usize..].chunks(pdu_bytes)) {
            let bits: u32 = got.iter().zip(sent).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert!(bits <= 1 && got[..8] == sent[..8] && got[header_bytes..] == sent[header_bytes..]);
            damaged += bits;
        }
        assert!((15..60).contains(&damaged), "{damaged}");
        [1, 7, 8, 171, 172, 1000].into_iter().for_each(|pieces| assert!(pass(pieces) == got, "{pieces}"));
    }
}
