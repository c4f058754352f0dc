//! P14: no bytes from the network, however malformed, cause a panic, a hang or unbounded memory.

mod common;
use common::*;
use proptest::prelude::*;
use std::io::Write;

/// The server answers, or closes, and goes on serving others.
fn survives(server: &nvferry_store::MetadataServer, bytes: &[u8]) {
    let mut connection = Connection::open(server.address());
    // The server may close before it has everything.
    if connection.stream.write_all(bytes).is_ok() {
        let _ = connection.stream.shutdown(std::net::Shutdown::Write);
        connection.closed();
    }
}

#[test]
fn p14_requests_that_are_none_are_refused() {
    let server = start();
    put(&server, "k", "kept");
    let endless = [b"GET /metadata?key=k HTTP/1.1\r\nx: ".as_slice(), &[b'x'; 200_000]].concat();
    let long_target = [b"GET /".as_slice(), &[b'x'; 100_000], b" HTTP/1.1\r\n\r\n"].concat();
    let headers = [b"GET / HTTP/1.1\r\n".as_slice(), &b"a: b\r\n".repeat(5000), b"\r\n"].concat();
    let cases: &[&[u8]] = &[
        b"",
        b"\0",
        b"\r\n\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metadata?key=k\r\n\r\n",
        b"GET /metadata?key=k HTTP/9.9\r\n\r\n",
        b"GET  /metadata?key=k  HTTP/1.1\r\n\r\n",
        b"GET metadata HTTP/1.1\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PUT /metadata?key=k HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"PUT /metadata?key=k HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"PUT /metadata?key=k HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"PUT /metadata?key=k HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"PUT /metadata?key=k HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"PUT /metadata?key=k HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n",
        b"GET /metadata?key=k HTTP/1.1\r\nx-nvferry-owner: \xff\xfe\r\n\r\n",
        &endless,
        &long_target,
        &headers,
    ];
    for case in cases {
        survives(&server, case);
        let shown = String::from_utf8_lossy(&case[..case.len().min(60)]).into_owned();
        assert_eq!(get(&server, "k").said(), (200, "kept"), "after {shown:?}");
    }
}

#[test]
fn p14_random_bytes_are_survived() {
    let server = start();
    put(&server, "k", "kept");
    proptest!(ProptestConfig::with_cases(300), |(
        cut in 0usize..120,
        noise in proptest::collection::vec(any::<u8>(), 0..80),
    )| {
        let valid = b"PUT /metadata?key=other HTTP/1.1\r\nhost: x\r\nx-nvferry-owner: o\r\nx-nvferry-ttl-ms: 60000\r\ncontent-length: 4\r\n\r\nabcd";
        let mut bytes = valid[..cut.min(valid.len())].to_vec();
        bytes.extend(noise);
        survives(&server, &bytes);
    });
    assert_eq!(get(&server, "k").said(), (200, "kept"));
    until("every connection is closed", || metric(&server, "nvferry_metadata_connections ") == 1.0);
}
