//! TCP streams, listeners and connecting, on loopback.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use nvferry_io::poller::{Events, Interest, Poller, Trigger};
use nvferry_io::stream::{BindError, ConnectProgress, Connecting, Listener, Stream, TcpOptions, TcpStream};
use nvferry_io::vector::IoVecs;
use nvferry_io::{RegisteredMemory, Scatter};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn wait(fd: BorrowedFd<'_>, interest: Interest) {
    let poller = Poller::new().unwrap();
    poller.add(fd, 1, interest, Trigger::Level).unwrap();
    let mut events = Events::with_capacity(1);
    let deadline = Instant::now() + PATIENCE;
    while events.is_empty() {
        assert!(Instant::now() < deadline, "not ready in {PATIENCE:?}");
        poller.wait(&mut events, Some(PATIENCE)).unwrap();
    }
}

fn finish(mut connecting: Connecting) -> io::Result<TcpStream> {
    loop {
        match connecting.finish()? {
            ConnectProgress::Connected(stream) => return Ok(stream),
            ConnectProgress::Pending(still) => {
                wait(still.as_fd(), Interest::WRITE);
                connecting = still;
            }
        }
    }
}

fn pair(options: TcpOptions) -> (TcpStream, TcpStream) {
    let listener = Listener::bind(loopback(), options).unwrap();
    let connecting = TcpStream::connect(listener.local_addr(), options).unwrap();
    assert_eq!(connecting.to(), listener.local_addr());
    wait(listener.as_fd(), Interest::READ);
    let (accepted, peer) = listener.accept().unwrap().expect("one waits");
    let connected = finish(connecting).unwrap();
    assert_eq!(connected.local_addr().unwrap(), peer);
    assert_eq!(connected.peer_addr().unwrap(), listener.local_addr());
    assert!(listener.accept().unwrap().is_none());
    (connected, accepted)
}

/// Receives until the list has been full or the stream ends.
fn recv_all(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut got = Vec::new();
    let mut pieces = IoVecs::new();
    while got.len() < len {
        let mut buffer = vec![0; len - got.len()];
        let mut list = pieces.scatter();
        let (head, tail) = buffer.split_at_mut((len - got.len()) / 3);
        list.push(head);
        list.push(tail);
        match stream.recv(&mut list) {
            Ok(0) => break,
            Ok(n) => got.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait(stream.as_fd(), Interest::READ),
            Err(error) => panic!("{error}"),
        }
    }
    got
}

#[test]
fn bytes_travel_in_pieces_both_ways() {
    let (mut a, mut b) = pair(TcpOptions::default());
    let memory = RegisteredMemory::from((0..=255_u8).collect::<Vec<_>>());
    let leased = memory.lease(100..200).unwrap();
    let mut pieces = IoVecs::new();
    let mut list = pieces.gather();
    list.push(b"head");
    list.push_leased(&leased, 50);
    list.push(b"tail");
    assert_eq!(a.send(&list).unwrap(), 58);
    let mut expected = b"head".to_vec();
    expected.extend(150..200_u8);
    expected.extend(b"tail");
    assert_eq!(recv_all(&mut b, 58), expected);

    let mut list = pieces.gather();
    list.push(b"back");
    assert_eq!(b.send(&list).unwrap(), 4);
    let into = RegisteredMemory::allocate(8);
    let lease = into.lease(0..8).unwrap();
    wait(a.as_fd(), Interest::READ);
    let mut list: Scatter<'_> = pieces.scatter();
    list.push_leased(&lease, 2);
    assert_eq!(a.recv(&mut list).unwrap(), 4);
    assert_eq!(lease.to_vec(), *b"\0\0back\0\0");
}

#[test]
fn nothing_ever_blocks() {
    let (mut a, mut b) = pair(TcpOptions { send_buffer_bytes: Some(64 << 10), ..TcpOptions::default() });
    let mut pieces = IoVecs::new();
    let mut buffer = [0; 16];
    let mut list = pieces.scatter();
    list.push(&mut buffer);
    assert_eq!(a.recv(&mut list).unwrap_err().kind(), ErrorKind::WouldBlock);

    let megabyte: Vec<u8> = (0..1 << 20).map(|n: u32| (n / 7) as u8).collect();
    let mut sent = 0;
    let refused = loop {
        let mut list = pieces.gather();
        list.push(&megabyte[sent % megabyte.len()..]);
        match a.send(&list) {
            Ok(n) => sent += n,
            Err(error) => break error,
        }
        assert!(sent < 1 << 30, "a peer that receives nothing must stop the sender");
    };
    assert_eq!(refused.kind(), ErrorKind::WouldBlock);
    let got = recv_all(&mut b, sent);
    assert!(got.iter().eq(megabyte.iter().cycle().take(sent)));
}

#[test]
fn the_end_is_told_to_both_sides() {
    let (mut a, mut b) = pair(TcpOptions::default());
    let mut pieces = IoVecs::new();
    let mut list = pieces.gather();
    list.push(b"last");
    a.send(&list).unwrap();
    a.shutdown(Shutdown::Write).unwrap();
    assert_eq!(recv_all(&mut b, 100), b"last");
    drop(b);
    // Sending into the void is an error and no signal; the first send may be taken before the reset is back.
    let deadline = Instant::now() + PATIENCE;
    let (mut c, d) = pair(TcpOptions::default());
    drop(d);
    loop {
        let mut list = pieces.gather();
        list.push(b"x");
        match c.send(&list) {
            Ok(_) => assert!(Instant::now() < deadline),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
                break;
            }
        }
    }
}

#[test]
fn buffer_sizes_are_as_asked() {
    let options =
        TcpOptions { send_buffer_bytes: Some(100_000), recv_buffer_bytes: Some(90_000), ..TcpOptions::default() };
    let (a, b) = pair(options);
    for stream in [a, b] {
        // Linux doubles what it is asked for, to count its own bookkeeping.
        assert_eq!(stream.buffer_sizes().unwrap(), (200_000, 180_000));
    }
}

#[test]
fn p01_the_kernel_is_told_to_find_dead_peers_on_both_sides() {
    use nix::sys::socket::{getsockopt, sockopt};
    let (a, b) = pair(TcpOptions { dead_after: Some(Duration::from_secs(12)), ..TcpOptions::default() });
    for stream in [a, b] {
        let fd = stream.as_fd();
        assert_eq!(getsockopt(&fd, sockopt::TcpUserTimeout), Ok(12_000));
        assert_eq!(getsockopt(&fd, sockopt::KeepAlive), Ok(true));
        let probes = [getsockopt(&fd, sockopt::TcpKeepIdle), getsockopt(&fd, sockopt::TcpKeepInterval)];
        assert_eq!(probes, [Ok(4), Ok(4)]);
        assert_eq!(getsockopt(&fd, sockopt::TcpKeepCount), Ok(3));
    }
    assert!(TcpOptions::default().dead_after.is_some_and(|time| time <= Duration::from_secs(15)));
}

/// Sends until the peer's window and the buffers before it are full; tells how much that was.
fn fill(stream: &mut TcpStream) -> usize {
    let (piece, mut pieces) = (vec![7; 64 << 10], IoVecs::new());
    let mut sent = 0;
    loop {
        let mut list = pieces.gather();
        list.push(&piece);
        match stream.send(&list) {
            Ok(n) => sent += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return sent,
            Err(error) => panic!("{error}"),
        }
    }
}

const SOON_DEAD: TcpOptions = TcpOptions {
    nodelay: true,
    send_buffer_bytes: None,
    recv_buffer_bytes: None,
    dead_after: Some(Duration::from_secs(1)),
    waits_for_window: true,
};

#[test]
fn p07_a_peer_that_takes_nothing_for_longer_is_waited_for() {
    let (mut a, mut b) = pair(SOON_DEAD);
    let sent = fill(&mut a);
    // Nothing can be waited for here but the time.
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(100));
        a.check_peer(Instant::now()).unwrap();
    }
    assert_eq!(recv_all(&mut b, sent), vec![7; sent]);
    wait(a.as_fd(), Interest::WRITE);
    assert!(fill(&mut a) > 0, "and it goes on");
}

/// With loopback taken down under both, in a network of its own.
#[test]
fn p01_a_peer_that_answers_nothing_is_found_whether_its_window_is_open_or_closed() {
    let name = "p01_a_peer_that_answers_nothing_is_found_whether_its_window_is_open_or_closed";
    if !nvferry_testing::in_own_namespaces(name, "-Urn", "ip link set lo up") {
        return;
    }
    let (mut open, _open_peer) = pair(SOON_DEAD);
    let (mut closed, _closed_peer) = pair(SOON_DEAD);
    let (mut idle, _idle_peer) = pair(SOON_DEAD);
    fill(&mut closed);
    for stream in [&mut open, &mut closed, &mut idle] {
        stream.check_peer(Instant::now()).unwrap();
    }
    let down = std::process::Command::new("ip").args(["link", "set", "lo", "down"]).status();
    assert!(down.unwrap().success());
    let (mut pieces, patience) = (IoVecs::new(), Instant::now() + PATIENCE);
    let mut list = pieces.gather();
    list.push(b"is anybody there?");
    open.send(&list).unwrap();
    let mut left = vec![("open", open), ("closed", closed)];
    while !left.is_empty() {
        assert!(Instant::now() < patience, "not found: {left:?}");
        std::thread::sleep(Duration::from_millis(100));
        left.retain_mut(|(_, stream)| match stream.check_peer(Instant::now()) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::TimedOut);
                false
            }
        });
    }
    // Where nothing was sent, the kernel finds out by itself.
    wait(idle.as_fd(), Interest::READ);
    let mut buffer = [0; 16];
    let mut list = pieces.scatter();
    list.push(&mut buffer);
    let error = idle.recv(&mut list).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable),
        "{error}"
    );
}

#[test]
fn a_port_where_nobody_listens_refuses() {
    let listener = Listener::bind(loopback(), TcpOptions::default()).unwrap();
    let address = listener.local_addr();
    drop(listener);
    let refused = TcpStream::connect(address, TcpOptions::default()).and_then(|connecting| {
        wait(connecting.as_fd(), Interest::WRITE);
        finish(connecting)
    });
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn binding_says_what_is_wrong() {
    let first = Listener::bind(loopback(), TcpOptions::default()).unwrap();
    assert_ne!(first.local_addr().port(), 0);
    let error = Listener::bind(first.local_addr(), TcpOptions::default()).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("the port is in use"), "{error}");
    // TEST-NET-1 is nobody's.
    let error = Listener::bind("192.0.2.1:0".parse().unwrap(), TcpOptions::default()).unwrap_err();
    assert!(matches!(error, BindError::NotLocal { .. }), "{error}");
    assert!(error.to_string().contains("192.0.2.1:0"), "{error}");
}

#[test]
fn a_port_can_be_listened_on_again_at_once() {
    let listener = Listener::bind(loopback(), TcpOptions::default()).unwrap();
    let address = listener.local_addr();
    let connecting = TcpStream::connect(address, TcpOptions::default()).unwrap();
    wait(listener.as_fd(), Interest::READ);
    let (accepted, _) = listener.accept().unwrap().unwrap();
    // This side closes first, so its end stays in TIME_WAIT.
    accepted.shutdown(Shutdown::Both).unwrap();
    drop(accepted);
    drop(listener);
    drop(finish(connecting));
    assert_eq!(Listener::bind(address, TcpOptions::default()).unwrap().local_addr(), address);
}
