//! Runs the program, and ends it whatever happens.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test file uses a part; it is test code"
)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Longer than anything here takes, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The program with nothing of the caller's environment that changes what it does.
pub fn nvferry(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvferry"));
    let settings = std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("NVFERRY_") || name.starts_with("MC_") || name.starts_with("XDG_") || name == "STATE_DIRECTORY"
    });
    for name in settings {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end: status, standard output, standard error.
pub fn run(args: &[&str]) -> (i32, String, String) {
    ended(&mut nvferry(args))
}

/// Runs a command to its end, and fails the test if that does not come.
pub fn ended(command: &mut Command) -> (i32, String, String) {
    let child = command.spawn().unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    let (sender, output) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = output.recv_timeout(PATIENCE) else {
        // It is still there: nobody has waited for it.
        kill(pid, Signal::SIGKILL).unwrap();
        panic!("it runs on: {command:?}");
    };
    let output = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// A role that runs until it is told to stop.
pub struct Role {
    pub child: Child,
    stdout: BufReader<ChildStdout>,
    /// The line that says that it is ready.
    pub ready: String,
}

impl Role {
    /// Starts it and waits until it is ready; fails the test with what it said when it ends instead.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        stdout.read_line(&mut ready).unwrap();
        if ready.is_empty() {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("it ended with {} and said: {said}", child.wait().unwrap());
        }
        Self { child, stdout, ready: ready.trim_end().to_owned() }
    }

    /// The word of the ready line that begins with `prefix`.
    pub fn word(&self, prefix: &str) -> String {
        let word = self.ready.split_whitespace().find(|word| word.starts_with(prefix));
        word.unwrap_or_else(|| panic!("no {prefix} in: {}", self.ready)).to_owned()
    }

    /// The next line that it says; empty when it has ended.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Sends the signal and waits for the end: status, what else it printed, standard error.
    pub fn stop(mut self, signal: Signal) -> (i32, String, String) {
        self.signal(signal);
        self.end()
    }

    pub fn end(&mut self) -> (i32, String, String) {
        let mut stdout = String::new();
        self.stdout.read_to_string(&mut stdout).unwrap();
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0);
        (status.code().unwrap_or(128 + by_signal), stdout, stderr)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It has ended already, or is to end now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A metadata service in memory on a free port.
pub fn metadata() -> Role {
    Role::start(&mut nvferry(&["metadata", "--listen", "127.0.0.1:0"]))
}

/// `host:port` of a URL.
pub fn authority(url: &str) -> &str {
    url.strip_prefix("http://").unwrap().split('/').next().unwrap()
}

/// One HTTP request on a connection of its own: status and body.
pub fn http(url: &str, method: &str, query: &str, body: &str) -> (u16, String) {
    try_http(url, method, query, body).unwrap()
}

pub fn try_http(url: &str, method: &str, query: &str, body: &str) -> std::io::Result<(u16, String)> {
    let authority = authority(url);
    let path = &url["http://".len() + authority.len()..];
    let mut stream = TcpStream::connect(authority)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let len = body.len();
    write!(
        stream,
        "{method} {path}{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let cut = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut)?;
    let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).and_then(|len| len.parse().ok());
    if len != Some(body.len()) {
        return Err(cut());
    }
    Ok((status, body.to_owned()))
}

/// A service that answers every request alike; its URL.
pub fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/metadata", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            if matches!(stream.read(&mut request), Ok(len) if len > 0) {
                // Whoever asked may be gone.
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    url
}
