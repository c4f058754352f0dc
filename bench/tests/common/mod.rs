//! Runs of the real program, with a temporary directory of their own each.
#![allow(dead_code)] // Each test file uses a part.

use nvferry_store::{MetadataServer, MetadataServerOptions};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
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
        let stderr = child.stderr.take().unwrap();
        Running { child, stdout, said: String::new(), stderr: Some(read_all(stderr)) }
    }
}

fn read_all(mut from: ChildStderr) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    })
}

/// A run under way. Killed when dropped.
pub struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    said: String,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// Reads its standard output until a line has this in it, and returns that line.
    #[track_caller]
    pub fn wait_for(&mut self, words: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.stdout.read_line(&mut line).unwrap();
            self.said.push_str(&line);
            if read == 0 {
                let stderr = self.stderr.take().map(|thread| thread.join().unwrap());
                panic!("ended before saying {words:?}: {:?}, {stderr:?}", self.said);
            }
            if line.contains(words) {
                return line;
            }
        }
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    pub fn end(mut self) -> Ended {
        self.stdout.read_to_string(&mut self.said).unwrap();
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
