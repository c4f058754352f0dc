//! Runs of the real program, with a temporary directory of their own each.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Each test file uses a part, as a module of its own.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nvferry_store::{MetadataServer, MetadataServerOptions};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;

/// What a run left: its status and what it said.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The run ended well, or everything that it said.
    #[track_caller]
    pub fn assert_ok(&self) -> &Self {
        assert!(self.status.success(), "{self:#?}");
        self
    }

    /// The run was refused with this status, in one sentence that has all these words.
    #[track_caller]
    pub fn assert_refused(&self, code: i32, words: &[&str]) -> &Self {
        assert_eq!(self.code(), Some(code), "{self:#?}");
        assert!(self.stderr.starts_with("transfer-bench: "), "{self:#?}");
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "not one sentence: {self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in: {self:#?}");
        }
        assert!(!self.stdout.contains("Test completed"), "{self:#?}");
        self
    }

    /// The number before `what` in the standard output, such as `Verified 12 blocks`.
    #[track_caller]
    pub fn number_after(&self, before: &str) -> f64 {
        let at = self.stdout.find(before).unwrap_or_else(|| panic!("{before:?} is not in {self:#?}")) + before.len();
        let digits: String = self.stdout[at..].chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        digits.trim_end_matches('.').parse().unwrap_or_else(|_| panic!("no number after {before:?} in {self:#?}"))
    }
}

/// A directory for one test: for its files, and as TMPDIR of what it runs.
pub struct Room {
    dir: TempDir,
}

impl Room {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A file of so many bytes, not all zero.
    pub fn file(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.path().join(name);
        let data: Vec<u8> = (0..bytes).map(|n| (n / 7) as u8).collect();
        File::create(&path).unwrap().write_all(&data).unwrap();
        path
    }

    /// What is in the directory, sorted.
    pub fn entries(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_transfer-bench"));
        command.args(args).env("TMPDIR", self.path()).stdin(Stdio::null());
        for variable in ["MC_NVMEOF_GENERIC_DIRECT_IO", "MC_NVMEOF_GENERIC_NUM_WORKERS", "MC_METADATA_CLUSTER_ID"] {
            command.env_remove(variable);
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> Ended {
        let output = self.command(args).output().unwrap();
        Ended {
            status: output.status,
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn start(&self, args: &[&str]) -> Running {
        let mut child = self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // A test that no longer listens has ended.
                let _ = send.send(line);
            }
        });
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        Running { child, lines, said: String::new(), stderr: Some(stderr) }
    }
}

/// A run that says nothing for so long hangs: far beyond every deadline that a test sets.
const HANGS: Duration = Duration::from_secs(120);

/// A run under way. Killed when dropped.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    said: String,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// The next line of its standard output; `None` at its end.
    #[track_caller]
    fn next_line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(HANGS) {
            Ok(line) => {
                self.said.push_str(&line);
                self.said.push('\n');
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("hangs, having said {:?}", self.said),
        }
    }

    /// Reads its standard output until a line has this in it, and returns that line.
    #[track_caller]
    pub fn wait_for(&mut self, words: &str) -> String {
        loop {
            match self.next_line() {
                Some(line) if line.contains(words) => return line,
                Some(_) => {}
                None => panic!("ended before saying {words:?}: {:#?}", self.wait()),
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end, which must come by itself.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        while self.next_line().is_some() {}
        self.wait()
    }

    fn wait(&mut self) -> Ended {
        let status = self.child.wait().unwrap();
        let stderr = self.stderr.take().map(|thread| thread.join().unwrap()).unwrap_or_default();
        Ended { status, stdout: std::mem::take(&mut self.said), stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A metadata server of this test alone.
pub fn metadata() -> MetadataServer {
    MetadataServer::start(MetadataServerOptions::default()).unwrap()
}

/// What the server answers to a GET of this path and query: the status line's code, and the body.
pub fn http_get(address: SocketAddr, path_and_query: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path_and_query} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    (code, body)
}

/// What is published under this server name: its descriptor, if there is one.
pub fn published(server: &MetadataServer, name: &str) -> Option<String> {
    let (code, body) = http_get(server.address(), &format!("/metadata?key=mooncake/ram/{name}"));
    assert!(code == 200 || code == 404, "{code}: {body}");
    (code == 200).then_some(body)
}

/// A server that does the same for every connection, on a port of its own. Ends with the test's process.
pub fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// A server that answers every HTTP request with these bytes.
pub fn answering(answer: &'static [u8]) -> SocketAddr {
    server(move |mut stream| {
        let mut head = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        while head.read_line(&mut line).is_ok_and(|read| read > 2) {
            line.clear();
        }
        let _ = stream.write_all(answer);
    })
}

/// A server that accepts and never answers.
pub fn silent() -> SocketAddr {
    server(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

/// A port that nothing listens on.
pub fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A target process that serves a file of the room as segment `target`; and what it said when it was ready.
pub fn start_target(room: &Room, server: &MetadataServer, more: &[&str]) -> (Running, String) {
    let path = room.path().join("file");
    if !path.exists() {
        room.file("file", 8 << 20);
    }
    let flags = [
        "--mode=target",
        &format!("--metadata_server={}", server.url()),
        "--local_server_name=target",
        &format!("--files={}", path.display()),
    ];
    let mut target = room.start(&[&flags[..], more].concat());
    let line = target.wait_for("Serving segment target");
    (target, line)
}

pub fn initiator(server: &MetadataServer, more: &[&str]) -> Vec<String> {
    let flags = [
        "--mode=initiator".to_owned(),
        format!("--metadata_server={}", server.url()),
        "--segment_id=target".to_owned(),
    ];
    flags.into_iter().chain(more.iter().map(|flag| (*flag).to_owned())).collect()
}

pub fn strs(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// The port in a published descriptor.
pub fn port_of(descriptor: &str) -> String {
    let descriptor: serde_json::Value = serde_json::from_str(descriptor).unwrap();
    descriptor["nvmeof_generic_trid"]["trsvcid"].as_str().unwrap().to_owned()
}
