//! A minimal HTTP client that hides nothing, and servers to use it on.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test file uses a part; it is test code"
)]

use nvferry_store::metadata::Limits;
use nvferry_store::{MetadataServer, MetadataServerOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// Longer than anything here takes, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn start() -> MetadataServer {
    MetadataServer::start(MetadataServerOptions::default()).unwrap()
}

pub fn start_with(limits: Limits) -> MetadataServer {
    MetadataServer::start(MetadataServerOptions { limits, ..Default::default() }).unwrap()
}

pub fn start_on(store: &Path) -> MetadataServer {
    MetadataServer::start(MetadataServerOptions { store: Some(store.to_owned()), ..Default::default() }).unwrap()
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Status and text, as most tests compare them.
    pub fn said(&self) -> (u16, &str) {
        (self.status, self.text())
    }

    pub fn version(&self) -> u64 {
        self.header("x-nvferry-version").expect("a version").parse().unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// One connection, which may be used for several requests.
pub struct Connection {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub fn send(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut request = format!("{method} {target} HTTP/1.1\r\nhost: test\r\n").into_bytes();
        for (name, value) in headers {
            request.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        if !body.is_empty() || method == "PUT" {
            request.extend(format!("content-length: {}\r\n", body.len()).into_bytes());
        }
        request.extend(b"\r\n");
        request.extend(body);
        self.stream.write_all(&request).unwrap();
    }

    /// Reads one answer; fails the test if there is none.
    pub fn receive(&mut self) -> Reply {
        self.try_receive().expect("an answer")
    }

    /// Reads one answer; `None` when the server closes instead.
    pub fn try_receive(&mut self) -> Option<Reply> {
        let head_len = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.fill()?;
        };
        let head = String::from_utf8(self.buffer.drain(..head_len).collect()).unwrap();
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut reply = Reply { status, headers, body: Vec::new() };
        let len: usize = reply.header("content-length").expect("a content-length").parse().unwrap();
        while self.buffer.len() < len {
            self.fill()?;
        }
        reply.body = self.buffer.drain(..len).collect();
        Some(reply)
    }

    fn fill(&mut self) -> Option<()> {
        let mut chunk = [0; 65536];
        match self.stream.read(&mut chunk) {
            Ok(0) => None,
            Ok(len) => {
                self.buffer.extend(&chunk[..len]);
                Some(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer and no end: {error}"),
        }
    }

    /// Waits until the server closes the connection.
    pub fn closed(&mut self) {
        while self.fill().is_some() {}
    }

    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.send(method, target, headers, body);
        self.receive()
    }
}

pub fn request(server: &MetadataServer, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    Connection::open(server.address()).request(method, target, headers, body)
}

pub fn get(server: &MetadataServer, key: &str) -> Reply {
    request(server, "GET", &format!("/metadata?key={key}"), &[], b"")
}

pub fn put(server: &MetadataServer, key: &str, value: &str) -> Reply {
    request(server, "PUT", &format!("/metadata?key={key}"), &[], value.as_bytes())
}

pub fn put_as(server: &MetadataServer, key: &str, value: &str, owner: &str, ttl_ms: &str) -> Reply {
    let headers = [("X-Nvferry-Owner", owner), ("X-Nvferry-Ttl-Ms", ttl_ms)];
    request(server, "PUT", &format!("/metadata?key={key}"), &headers, value.as_bytes())
}

pub fn delete(server: &MetadataServer, key: &str) -> Reply {
    request(server, "DELETE", &format!("/metadata?key={key}"), &[], b"")
}

/// The figure on the line of `/metrics` that begins with `name`; 0 when there is none.
pub fn metric(server: &MetadataServer, name: &str) -> f64 {
    let reply = request(server, "GET", "/metrics", &[], b"");
    let line = reply.text().lines().find(|line| line.starts_with(name)).map(str::to_owned);
    line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// Asks until it is so. There is no event to wait on where the server's own figures are the only sign.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "never became so: {what}");
        std::thread::yield_now();
    }
}
