//! A byte stream's twin in memory, for deterministic tests: one thread, no clock, and a handle on each direction
//! ([`MemoryLink`]) that splits, holds, corrupts and cuts what passes.

use super::Stream;
use crate::pages::Pages;
use crate::vector::{Gather, IoVecs, Scatter};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a connection in memory ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Both sides read what had been sent and then the end of the stream; sending fails with `BrokenPipe`.
    Close,
    /// Both sides get `ConnectionReset` at once; what was under way is lost.
    Reset,
    /// Bytes of this direction vanish from here on, and nobody is told: a dead peer, a pulled cable.
    Silence,
}

/// A pair of connected streams. Each direction holds at most `capacity_bytes` that were sent and not received.
#[must_use]
pub fn memory_pair(capacity_bytes: usize) -> (MemoryStream, MemoryStream) {
    let pipe = || Pipe {
        bytes: Vec::new(),
        head: 0,
        capacity_bytes: capacity_bytes.max(1),
        max_per_call: usize::MAX,
        sent: 0,
        received: 0,
        held: None,
        flips: Vec::new(),
        tamper: None,
        cut: None,
        end: End::Open,
        silent: false,
        receiver_gone: false,
    };
    let pair = Arc::new(Mutex::new([pipe(), pipe()]));
    (MemoryStream { pair: Arc::clone(&pair), outgoing: 0 }, MemoryStream { pair, outgoing: 1 })
}

/// One end of a connection in memory. Dropping it closes the connection.
#[derive(Debug)]
pub struct MemoryStream {
    pair: Arc<Mutex<[Pipe; 2]>>,
    outgoing: usize,
}

/// The handle on one direction of a connection, which stays when the streams are handed to what is tested.
///
/// Positions count bytes from the first that was ever sent in this direction.
#[derive(Debug, Clone)]
pub struct MemoryLink {
    pair: Arc<Mutex<[Pipe; 2]>>,
    direction: usize,
}

/// Where one direction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// Bytes that were sent and have not arrived, while holding.
    pub held_bytes: usize,
    /// The end of the stream follows the bytes that are there, or the connection was reset.
    pub ended: bool,
    /// What is sent vanishes.
    pub silent: bool,
    /// The receiver has something to do: bytes, the end, or an error.
    pub can_recv: bool,
    /// The sender may go on, or would learn that it may not.
    pub can_send: bool,
}

/// Changes what is sent: it is told the position of the first byte, and may change them all.
type TamperFn = dyn FnMut(u64, &mut [u8]) + Send;
struct Tamper(Box<TamperFn>);

impl std::fmt::Debug for Tamper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tamper")
    }
}

/// How the stream of one direction goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// The end of the stream follows the bytes that are there.
    Closed,
    Reset,
}

/// One direction.
#[derive(Debug)]
struct Pipe {
    /// Sent and not received: `bytes[head..]`.
    bytes: Vec<u8>,
    head: usize,
    capacity_bytes: usize,
    max_per_call: usize,
    /// Position of the next byte to be sent.
    sent: u64,
    /// Position of the next byte to be received.
    received: u64,
    /// While holding: the position up to which bytes have arrived.
    held: Option<u64>,
    /// Bits to be flipped: position and bit.
    flips: Vec<(u64, u8)>,
    tamper: Option<Tamper>,
    cut: Option<(u64, Cut)>,
    end: End,
    /// Bytes are swallowed.
    silent: bool,
    receiver_gone: bool,
}

fn lock(pair: &Mutex<[Pipe; 2]>) -> MutexGuard<'_, [Pipe; 2]> {
    // A test that panicked under the lock has failed already; others may go on.
    pair.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pipe {
    fn waiting(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Bytes that the receiver may have now.
    fn arrived(&self) -> usize {
        let arrived = self.held.map_or(usize::MAX, |at| (at - self.received) as usize);
        self.waiting().min(arrived)
    }

    /// Whether a receive would say anything but `WouldBlock`.
    fn can_recv(&self) -> bool {
        self.arrived() > 0 || self.end == End::Reset || (self.end == End::Closed && self.waiting() == 0)
    }

    /// Whether a send would say anything but `WouldBlock`.
    fn can_send(&self) -> bool {
        self.end != End::Open || self.receiver_gone || self.silent || self.waiting() < self.capacity_bytes
    }

    /// Bytes that one call can send.
    fn room(&self) -> usize {
        let before_cut = self.cut.map_or(usize::MAX, |(at, _)| usize::try_from(at - self.sent).unwrap_or(usize::MAX));
        let free = if self.silent { usize::MAX } else { self.capacity_bytes.saturating_sub(self.waiting()) };
        self.max_per_call.min(before_cut).min(free)
    }

    fn state(&self) -> LinkState {
        LinkState {
            held_bytes: self.waiting() - self.arrived(),
            ended: self.end != End::Open,
            silent: self.silent,
            can_recv: self.can_recv(),
            can_send: self.can_send(),
        }
    }

    fn reset(&mut self) {
        self.end = End::Reset;
        self.bytes.clear();
        self.head = 0;
    }

    fn send(&mut self, from: &Gather<'_>) -> io::Result<usize> {
        match self.end {
            End::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            End::Closed => return Err(io::ErrorKind::BrokenPipe.into()),
            // What vanishes on its way is answered by nobody.
            End::Open if self.receiver_gone && !self.silent => return Err(io::ErrorKind::BrokenPipe.into()),
            End::Open => {}
        }
        let mut limit = from.bytes().min(self.max_per_call);
        if let Some((at, _)) = self.cut {
            limit = limit.min(usize::try_from(at - self.sent).unwrap_or(usize::MAX));
        }
        if self.silent {
            self.sent += limit as u64;
            return Ok(limit);
        }
        limit = limit.min(self.capacity_bytes - self.waiting());
        if limit == 0 && from.bytes() > 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let start = self.bytes.len();
        let taken = from.copy_to(&mut self.bytes, limit);
        if let Some(Tamper(tamper)) = &mut self.tamper {
            tamper(self.sent, &mut self.bytes[start..]);
        }
        for &(position, bit) in &self.flips {
            if (self.sent..self.sent + taken as u64).contains(&position) {
                self.bytes[start + (position - self.sent) as usize] ^= 1 << (bit % 8);
            }
        }
        self.sent += taken as u64;
        Ok(taken)
    }

    fn recv(&mut self, into: &mut Scatter<'_>) -> io::Result<usize> {
        if self.end == End::Reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let n = self.arrived().min(self.max_per_call);
        if n == 0 && into.bytes() > 0 {
            let ended = self.end == End::Closed && self.waiting() == 0;
            return if ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let taken = into.copy_from(&self.bytes[self.head..self.head + n]);
        self.head += taken;
        self.received += taken as u64;
        if self.head == self.bytes.len() {
            self.bytes.clear();
            self.head = 0;
        } else if self.head > self.capacity_bytes {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        Ok(taken)
    }
}

/// Does to the connection what was planned for the position that `direction` has reached.
fn cut_if_due(pipes: &mut [Pipe; 2], direction: usize) {
    if let Some((at, cut)) = pipes[direction].cut
        && pipes[direction].sent >= at
    {
        pipes[direction].cut = None;
        match cut {
            Cut::Close => {
                for pipe in pipes {
                    if pipe.end == End::Open {
                        pipe.end = End::Closed;
                    }
                }
            }
            Cut::Reset => pipes.iter_mut().for_each(Pipe::reset),
            Cut::Silence => pipes[direction].silent = true,
        }
    }
}

impl MemoryStream {
    /// The handle on what this end sends.
    #[must_use]
    pub fn outgoing(&self) -> MemoryLink {
        MemoryLink { pair: Arc::clone(&self.pair), direction: self.outgoing }
    }

    /// The handle on what this end receives.
    #[must_use]
    pub fn incoming(&self) -> MemoryLink {
        MemoryLink { pair: Arc::clone(&self.pair), direction: 1 - self.outgoing }
    }

    /// Whether a receive would say anything but `WouldBlock`.
    #[must_use]
    pub fn readable(&self) -> bool {
        self.incoming().can_recv()
    }

    /// Whether a send would say anything but `WouldBlock`.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.outgoing().can_send()
    }

    /// Sends no more: the other end reads what is there and then the end of the stream.
    pub fn close_send(&self) {
        let pipe = &mut lock(&self.pair)[self.outgoing];
        if pipe.end == End::Open && !pipe.silent {
            pipe.end = End::Closed;
        }
    }
}

impl Stream for MemoryStream {
    fn recv(&mut self, into: &mut Scatter<'_>) -> io::Result<usize> {
        lock(&self.pair)[1 - self.outgoing].recv(into)
    }

    fn send(&mut self, from: &Gather<'_>) -> io::Result<usize> {
        let mut pipes = lock(&self.pair);
        let sent = pipes[self.outgoing].send(from);
        cut_if_due(&mut pipes, self.outgoing);
        sent
    }

    fn send_pages(&mut self, pages: &mut Pages, _more: bool) -> io::Result<usize> {
        let room = {
            let pipe = &lock(&self.pair)[self.outgoing];
            // Whatever is wrong with the connection, sending says so.
            if pipe.end == End::Open && !pipe.receiver_gone { pipe.room() } else { 1 }
        };
        let mut list = IoVecs::new();
        let mut gather = list.gather();
        if room == 0 {
            // What was planned for this very position happens now.
            self.send(&gather)?;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut bytes = vec![0; room.min(pages.held_bytes())];
        let copied = pages.copy_to(&mut bytes)?;
        gather.push(&bytes[..copied]);
        self.send(&gather)
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        self.close_send();
        let mut pipes = lock(&self.pair);
        // Through a pulled cable nobody is told of this, either.
        pipes[1 - self.outgoing].receiver_gone = !pipes[self.outgoing].silent;
    }
}

impl MemoryLink {
    fn with<R>(&self, act: impl FnOnce(&mut Pipe) -> R) -> R {
        act(&mut lock(&self.pair)[self.direction])
    }

    /// Lets no call send or receive more than this, so that everything is split (at least 1).
    pub fn set_max_bytes_per_call(&self, bytes: usize) {
        self.with(|pipe| pipe.max_per_call = bytes.max(1));
    }

    /// Flips one bit (0 to 7) of the byte at `position`, which must not have been sent yet.
    pub fn flip_bit(&self, position: u64, bit: u8) {
        self.with(|pipe| pipe.flips.push((position, bit)));
    }

    /// From here on `tamper` changes what is sent: it is told the position of the first of some bytes, and may change them.
    pub fn tamper(&self, tamper: impl FnMut(u64, &mut [u8]) + Send + 'static) {
        self.with(|pipe| pipe.tamper = Some(Tamper(Box::new(tamper))));
    }

    /// Ends the connection when this direction has sent `position` bytes; at once if it has already.
    pub fn cut_at(&self, position: u64, cut: Cut) {
        let mut pipes = lock(&self.pair);
        let pipe = &mut pipes[self.direction];
        pipe.cut = Some((position.max(pipe.sent), cut));
        cut_if_due(&mut pipes, self.direction);
    }

    /// What was planned for later positions of this direction, cuts and flipped bits, does not happen.
    pub fn forget_plans(&self) {
        self.with(|pipe| {
            pipe.cut = None;
            pipe.flips.clear();
            pipe.tamper = None;
        });
    }

    /// Ends the connection now.
    pub fn cut(&self, cut: Cut) {
        self.cut_at(0, cut);
    }

    /// From here on nothing arrives by itself, only what [`Self::deliver`] lets through.
    pub fn hold(&self) {
        self.with(|pipe| pipe.held = Some(pipe.held.unwrap_or(pipe.sent)));
    }

    /// While holding: lets up to `bytes` more arrive, and tells how many did.
    pub fn deliver(&self, bytes: usize) -> usize {
        self.with(|pipe| {
            let Some(at) = pipe.held else { return 0 };
            // What was swallowed or lost will never be there.
            let end = pipe.received + pipe.waiting() as u64;
            let to = at.saturating_add(bytes as u64).min(end).max(at);
            pipe.held = Some(to);
            (to - at) as usize
        })
    }

    /// Ends the holding: everything arrives.
    pub fn release(&self) {
        self.with(|pipe| pipe.held = None);
    }

    /// Where this direction stands, and the other one.
    #[must_use]
    pub fn states(&self) -> [LinkState; 2] {
        let pipes = lock(&self.pair);
        [pipes[self.direction].state(), pipes[1 - self.direction].state()]
    }

    /// Bytes that were sent and have not arrived, while holding.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.with(|pipe| pipe.state().held_bytes)
    }

    /// Bytes that were ever sent in this direction.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.with(|pipe| pipe.sent)
    }

    /// Bytes that were ever received in this direction.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.with(|pipe| pipe.received)
    }

    /// Whether what is sent in this direction vanishes.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.with(|pipe| pipe.silent)
    }

    /// Whether the end of the stream follows the bytes that are there, or the connection was reset.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.with(|pipe| pipe.end != End::Open)
    }

    /// Whether the receiver has something to do: bytes, the end, or an error.
    #[must_use]
    pub fn can_recv(&self) -> bool {
        self.with(|pipe| pipe.can_recv())
    }

    /// Whether the sender may go on, or would learn that it may not.
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.with(|pipe| pipe.can_send())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::IoVecs;
    use std::io::ErrorKind;

    fn send(stream: &mut MemoryStream, bytes: &[u8]) -> io::Result<usize> {
        let mut pieces = IoVecs::new();
        let mut list = pieces.gather();
        // In two pieces, as real senders have several.
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        list.push(head);
        list.push(tail);
        stream.send(&list)
    }

    fn recv(stream: &mut MemoryStream, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut pieces = IoVecs::new();
        let mut list = pieces.scatter();
        let (head, tail) = bytes.split_at_mut(len / 2);
        list.push(head);
        list.push(tail);
        let n = stream.recv(&mut list)?;
        bytes.truncate(n);
        Ok(bytes)
    }

    fn would_block<T: std::fmt::Debug>(result: &io::Result<T>) -> bool {
        result.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> ErrorKind {
        result.expect_err("must fail").kind()
    }

    #[test]
    fn bytes_arrive_in_order_and_capacity_pushes_back() {
        let (mut a, mut b) = memory_pair(10);
        assert!(a.writable() && !b.readable());
        assert!(would_block(&recv(&mut b, 4)));
        assert_eq!(send(&mut a, &[1, 2, 3, 4, 5, 6]).unwrap(), 6);
        assert_eq!(send(&mut a, &[7, 8, 9, 10, 11, 12]).unwrap(), 4);
        assert!(would_block(&send(&mut a, &[11])));
        assert!(!a.writable() && b.readable());
        assert_eq!(recv(&mut b, 4).unwrap(), [1, 2, 3, 4]);
        assert!(a.writable());
        assert_eq!(send(&mut a, &[11, 12]).unwrap(), 2);
        assert_eq!(recv(&mut b, 100).unwrap(), [5, 6, 7, 8, 9, 10, 11, 12]);
        assert!(would_block(&recv(&mut b, 1)));
        assert_eq!(send(&mut b, &[42]).unwrap(), 1);
        assert_eq!(recv(&mut a, 9).unwrap(), [42]);
        assert_eq!((a.outgoing().sent_bytes(), b.incoming().received_bytes()), (12, 12));
    }

    #[test]
    fn a_long_stream_through_a_small_buffer_stays_whole() {
        let (mut a, mut b) = memory_pair(7);
        a.outgoing().set_max_bytes_per_call(3);
        let sent: Vec<u8> = (0..1000_u32).map(|n| n as u8).collect();
        let (mut at, mut got) = (0, Vec::new());
        while got.len() < sent.len() {
            if at < sent.len() {
                match send(&mut a, &sent[at..]) {
                    Ok(n) => {
                        assert!((1..=3).contains(&n));
                        at += n;
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
            if at % 2 == 0 || !a.writable() || at == sent.len() {
                let part = recv(&mut b, 2).unwrap();
                assert!((1..=2).contains(&part.len()));
                got.extend(part);
            }
        }
        assert_eq!(got, sent);
    }

    #[test]
    fn the_bit_that_was_asked_for_is_flipped_and_no_other() {
        let (mut a, mut b) = memory_pair(100);
        a.outgoing().flip_bit(5, 0);
        a.outgoing().flip_bit(8, 7);
        assert_eq!(send(&mut a, &[0; 6]).unwrap(), 6);
        assert_eq!(send(&mut a, &[0; 6]).unwrap(), 6);
        assert_eq!(recv(&mut b, 100).unwrap(), [0, 0, 0, 0, 0, 1, 0, 0, 128, 0, 0, 0]);
    }

    #[test]
    fn who_tampers_sees_every_byte_once_with_its_position() {
        let (mut a, mut b) = memory_pair(100);
        a.outgoing().tamper(|at, bytes| (at..).zip(bytes).for_each(|(at, byte)| *byte ^= at as u8));
        assert_eq!(send(&mut a, &[0; 3]).unwrap(), 3);
        assert_eq!(send(&mut a, &[0; 3]).unwrap(), 3);
        a.outgoing().forget_plans();
        assert_eq!(send(&mut a, &[0; 2]).unwrap(), 2);
        assert_eq!(recv(&mut b, 100).unwrap(), [0, 1, 2, 3, 4, 5, 0, 0]);
    }

    #[test]
    fn closing_lets_what_was_sent_arrive() {
        let (mut a, mut b) = memory_pair(100);
        send(&mut a, &[1, 2]).unwrap();
        send(&mut b, &[3]).unwrap();
        drop(a);
        assert_eq!(recv(&mut b, 9).unwrap(), [1, 2]);
        assert_eq!(recv(&mut b, 9).unwrap(), []);
        assert!(b.readable() && b.writable(), "both would tell the end");
        assert_eq!(kind(send(&mut b, &[4])), ErrorKind::BrokenPipe);

        let (mut a, mut b) = memory_pair(100);
        a.close_send();
        assert_eq!(kind(send(&mut a, &[1])), ErrorKind::BrokenPipe);
        assert_eq!(recv(&mut b, 1).unwrap(), []);
        assert_eq!(send(&mut b, &[5]).unwrap(), 1);
        assert_eq!(recv(&mut a, 1).unwrap(), [5]);
    }

    #[test]
    fn a_cut_comes_at_its_byte() {
        for at in 0..=6 {
            let (mut a, mut b) = memory_pair(100);
            a.outgoing().cut_at(at, Cut::Close);
            let mut sent = 0;
            let end = loop {
                match send(&mut a, &[1, 2, 3, 4, 5, 6, 7][sent..]) {
                    Ok(n) => sent += n,
                    Err(error) => break error.kind(),
                }
            };
            assert_eq!((sent as u64, end), (at, ErrorKind::BrokenPipe));
            assert_eq!(recv(&mut b, 9).unwrap(), [1, 2, 3, 4, 5, 6][..at as usize]);
            assert_eq!(recv(&mut b, 9).unwrap(), []);
            assert_eq!(recv(&mut a, 9).unwrap(), []);
            assert_eq!(kind(send(&mut b, &[1])), ErrorKind::BrokenPipe);
        }
    }

    #[test]
    fn a_reset_loses_what_is_under_way_on_both_sides() {
        let (mut a, mut b) = memory_pair(100);
        send(&mut a, &[1]).unwrap();
        send(&mut b, &[2]).unwrap();
        a.outgoing().cut(Cut::Reset);
        for stream in [&mut a, &mut b] {
            assert!(stream.readable() && stream.writable());
            assert_eq!(kind(recv(stream, 1)), ErrorKind::ConnectionReset);
            assert_eq!(kind(send(stream, &[1])), ErrorKind::ConnectionReset);
        }
    }

    #[test]
    fn silence_swallows_without_a_word() {
        let (mut a, mut b) = memory_pair(4);
        a.outgoing().cut_at(2, Cut::Silence);
        assert_eq!(send(&mut a, &[1, 2, 3]).unwrap(), 2);
        for _ in 0..10 {
            assert_eq!(send(&mut a, &[9, 9, 9]).unwrap(), 3);
        }
        assert_eq!(recv(&mut b, 9).unwrap(), [1, 2]);
        assert!(would_block(&recv(&mut b, 9)));
        // The other direction lives.
        assert_eq!(send(&mut b, &[7]).unwrap(), 1);
        assert_eq!(recv(&mut a, 9).unwrap(), [7]);
    }

    #[test]
    fn what_is_held_arrives_when_delivered() {
        let (mut a, mut b) = memory_pair(100);
        send(&mut a, &[1]).unwrap();
        let link = a.outgoing();
        link.hold();
        send(&mut a, &[2, 3, 4]).unwrap();
        assert_eq!(link.held_bytes(), 3);
        assert_eq!(recv(&mut b, 9).unwrap(), [1]);
        assert!(would_block(&recv(&mut b, 9)) && !link.can_recv());
        assert_eq!(link.deliver(2), 2);
        assert!(link.can_recv());
        assert_eq!(recv(&mut b, 9).unwrap(), [2, 3]);
        assert_eq!(link.deliver(9), 1);
        assert_eq!(link.deliver(9), 0);
        send(&mut a, &[5]).unwrap();
        drop(a);
        assert_eq!(recv(&mut b, 9).unwrap(), [4]);
        assert!(would_block(&recv(&mut b, 9)), "the end comes after what is held");
        link.release();
        assert_eq!(recv(&mut b, 9).unwrap(), [5]);
        assert_eq!(recv(&mut b, 9).unwrap(), []);
        assert_eq!(link.deliver(1), 0);
    }
}
