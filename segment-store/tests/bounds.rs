//! What is too long, too large, too many or too slow, and what is said then.

mod common;
use common::*;
use nvferry_store::metadata::Limits;
use std::io::{Read, Write};
use std::time::Duration;

fn quick() -> Limits {
    Limits { receive: Duration::from_millis(100), send: Duration::from_millis(300), ..Limits::default() }
}

#[test]
fn a_key_is_bounded() {
    let server = start();
    let longest = "k".repeat(1024);
    let too_long = "k".repeat(1025);
    assert_eq!(put(&server, &longest, "v").status, 200);
    assert_eq!(get(&server, &longest).said(), (200, "v"));
    for method in ["GET", "PUT", "DELETE"] {
        let reply = request(&server, method, &format!("/metadata?key={too_long}"), &[], b"");
        assert_eq!(reply.said(), (414, "the key has 1025 bytes; at most 1024 are taken"), "{method}");
    }
    // It is the key's own bytes that count, not their encoding.
    assert_eq!(put(&server, &"%2F".repeat(1024), "v").status, 200);
    assert_eq!(
        put(&server, "%ff%fe", "v").said(),
        (400, "the value of `key` is not UTF-8 when its percent-encoding is undone")
    );
}

#[test]
fn a_value_is_bounded() {
    let server = start_with(Limits { value_bytes: 1000, ..Limits::default() });
    let target = "/metadata?key=k";
    assert_eq!(request(&server, "PUT", target, &[], &[b'v'; 1000]).status, 200);
    let too_large = (413, "the value is too large; at most 1000 bytes are taken");
    assert_eq!(request(&server, "PUT", target, &[], &[b'v'; 1001]).said(), too_large);

    let mut chunked = Connection::open(server.address());
    chunked.stream.write_all(b"PUT /metadata?key=k HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    for _ in 0..3 {
        chunked.stream.write_all(b"190\r\n").unwrap();
        chunked.stream.write_all(&[b'w'; 400]).unwrap();
        chunked.stream.write_all(b"\r\n").unwrap();
    }
    chunked.stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(chunked.receive().said(), too_large);
    assert_eq!(get(&server, "k").body, [b'v'; 1000], "the old value stands");
}

#[test]
fn a_value_far_too_large_is_refused_without_reading_it_all() {
    let server = start_with(Limits { value_bytes: 1000, ..Limits::default() });
    let mut connection = Connection::open(server.address());
    connection
        .stream
        .write_all(b"PUT /metadata?key=k HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000000\r\n\r\n")
        .unwrap();
    connection.stream.write_all(&[0; 4000]).unwrap();
    assert_eq!(connection.receive().status, 413);
    connection.closed();
}

#[test]
fn entries_and_all_bytes_are_bounded() {
    let server = start_with(Limits { entries: 3, total_bytes: 100, ..Limits::default() });
    put(&server, "a", "1");
    put(&server, "b", "1");
    let large = "x".repeat(100);
    assert_eq!(put(&server, "c", &large).said(), (507, "the server holds 4 bytes and takes no more"));
    put(&server, "c", "1");
    assert_eq!(put(&server, "d", "1").said(), (507, "the server holds 3 entries and takes no more"));
    assert_eq!(put(&server, "a", "2").status, 200, "what is there can be replaced");
    assert_eq!(delete(&server, "b").status, 200);
    assert_eq!(put(&server, "d", "1").status, 200);
}

#[test]
fn connections_are_bounded_and_the_next_one_is_told() {
    let server = start_with(Limits { connections: 2, ..Limits::default() });
    let mut first = Connection::open(server.address());
    let mut second = Connection::open(server.address());
    assert_eq!(first.request("GET", "/metadata?key=k", &[], b"").status, 404);
    assert_eq!(second.request("GET", "/metadata?key=k", &[], b"").status, 404);
    let mut third = Connection::open(server.address());
    let reply = third.request("GET", "/metadata?key=k", &[], b"");
    assert_eq!(reply.said(), (503, "too many connections are open already; try later"));
    assert_eq!(reply.header("retry-after"), Some("1"));
    third.closed();
    assert_eq!(first.request("GET", "/metadata?key=k", &[], b"").status, 404, "the others are served on");
    drop(second);
    until("the freed place is given away", || {
        let mut next = Connection::open(server.address());
        next.request("GET", "/metadata?key=k", &[], b"").status == 404
    });
}

#[test]
fn waiting_readers_are_bounded_and_others_are_served_on() {
    let server = start_with(Limits { waiters: 1, ..Limits::default() });
    let mut reader = Connection::open(server.address());
    reader.send("GET", "/metadata?key=k&wait_ms=60000", &[], b"");
    until("the reader waits", || metric(&server, "nvferry_metadata_waiters ") == 1.0);
    let reply = request(&server, "GET", "/metadata?key=k&wait_ms=60000", &[], b"");
    assert_eq!(reply.said(), (503, "too many readers wait already; ask again without wait_ms, or later"));
    assert_eq!(put(&server, "k", "v").status, 200);
    assert_eq!(reader.receive().said(), (200, "v"));
}

#[test]
fn a_wait_is_bounded_however_long_a_reader_asks_for() {
    let server = start_with(Limits { wait: Duration::from_millis(20), ..Limits::default() });
    let target = format!("/metadata?key=k&wait_ms={}", u64::MAX);
    assert_eq!(request(&server, "GET", &target, &[], b"").status, 404);
}

#[test]
fn a_connection_that_sends_nothing_is_closed() {
    let server = start_with(quick());
    Connection::open(server.address()).closed();
    // The same when it has asked once and then falls silent.
    let mut silent = Connection::open(server.address());
    assert_eq!(silent.request("GET", "/metadata?key=k", &[], b"").status, 404);
    silent.closed();
}

#[test]
fn a_head_that_comes_drop_by_drop_is_cut_off() {
    let server = start_with(quick());
    let mut slow = Connection::open(server.address());
    slow.stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    // Each byte comes soon after the last: only a bound on the whole head ends this.
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut unread = [0; 256];
    loop {
        assert!(std::time::Instant::now() < deadline, "it is still open");
        match slow.stream.read(&mut unread) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        if slow.stream.write_all(b"G").is_err() {
            break;
        }
    }
}

#[test]
fn a_body_that_does_not_come_is_given_up() {
    let server = start_with(quick());
    let mut slow = Connection::open(server.address());
    slow.stream.write_all(b"PUT /metadata?key=k HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf").unwrap();
    assert_eq!(slow.receive().said(), (408, "the value did not come within 100 ms"));
    slow.closed();
    assert_eq!(get(&server, "k").status, 404);
}

#[test]
fn a_body_that_ends_early_changes_nothing() {
    let server = start();
    let mut cut = Connection::open(server.address());
    cut.stream.write_all(b"PUT /metadata?key=k HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf").unwrap();
    cut.stream.shutdown(std::net::Shutdown::Write).unwrap();
    cut.closed();
    assert_eq!(get(&server, "k").status, 404);
}

#[test]
fn a_peer_that_does_not_read_its_answers_is_cut_off() {
    let server = start_with(quick());
    let value = vec![b'v'; 4 << 20];
    assert_eq!(request(&server, "PUT", "/metadata?key=k", &[], &value).status, 200);
    let mut deaf = Connection::open(server.address());
    for _ in 0..8 {
        deaf.send("GET", "/metadata?key=k", &[], b"");
    }
    until("its place is free", || metric(&server, "nvferry_metadata_connections ") == 1.0);
}

#[test]
fn bodies_under_way_are_bounded_together() {
    let limits = Limits { value_bytes: 1000, bodies_bytes: 1000, ..Limits::default() };
    let server = start_with(limits);
    let mut first = Connection::open(server.address());
    let head = "PUT /metadata?key=a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1000\r\n\r\n";
    first.stream.write_all(head.as_bytes()).unwrap();
    let mut go_on = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    first.stream.read_exact(&mut go_on).unwrap();
    assert!(go_on.starts_with(b"HTTP/1.1 100 "), "the first has the room");
    first.stream.write_all(&[b'a'; 999]).unwrap();
    let mut second = Connection::open(server.address());
    second.send("PUT", "/metadata?key=b", &[], &[b'b'; 1000]);
    until("both are connected", || metric(&server, "nvferry_metadata_connections ") == 3.0);
    assert_eq!(get(&server, "b").status, 404, "the second has no room yet");
    first.stream.write_all(b"a").unwrap();
    assert_eq!(first.receive().status, 200);
    assert_eq!(second.receive().status, 200, "it had its turn");
    assert_eq!((get(&server, "a").body.len(), get(&server, "b").body.len()), (1000, 1000));
}

#[test]
fn a_request_head_is_bounded() {
    let server = start();
    let long_header = "h".repeat(20_000);
    let mut connection = Connection::open(server.address());
    connection.send("GET", "/metadata?key=k", &[("x-long", &long_header)], b"");
    assert_eq!(connection.receive().status, 431);
    connection.closed();
    let mut connection = Connection::open(server.address());
    connection.send("GET", &format!("/metadata?key={}", "k".repeat(10_000)), &[], b"");
    assert_eq!(connection.receive().status, 414);
}
