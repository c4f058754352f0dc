//! A real etcd of one member: started, stopped by its pid, and started again.

use nvferry_engine::metadata::etcd::EtcdStore;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

pub(crate) struct Etcd {
    dir: TempDir,
    port: u16,
    /// What was asked for beyond the usual.
    args: Vec<String>,
    is_tls: bool,
    child: Option<Child>,
}

impl Etcd {
    /// `None`, with a word about it, where no etcd is installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(args: &[&str]) -> Option<Self> {
        if Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            println!("skipped: no etcd is installed (Debian: etcd-server)");
            return None;
        }
        let is_tls = args.contains(&"--cert-file");
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let mut etcd = Self { dir: tempfile::tempdir().unwrap(), port: 0, args, is_tls, child: None };
        // The port may be taken by someone else between here and there.
        for _ in 0..5 {
            etcd.port = free_port();
            if etcd.try_run() {
                return Some(etcd);
            }
        }
        panic!("etcd does not start: {}", etcd.log());
    }

    /// Starts it again at the same port.
    pub(crate) fn run(&mut self) {
        assert!(self.try_run(), "etcd does not start: {}", self.log());
    }

    fn try_run(&mut self) -> bool {
        let scheme = if self.is_tls { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", self.port);
        let peer = format!("http://127.0.0.1:{}", free_port());
        let log = File::create(self.dir.path().join("log")).unwrap();
        let mut command = Command::new("etcd");
        // Its own environment variables are settings, too.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.arg("--data-dir").arg(self.dir.path().join("data"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--name", "one", "--initial-cluster", &format!("one={peer}")]);
        // Quick elections make short leases possible, too.
        command.args(["--heartbeat-interval", "20", "--election-timeout", "200", "--logger", "zap"]);
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().unwrap();
        let is_ready = (0..3000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            child.try_wait().unwrap().is_some() || self.is_ready()
        });
        let is_running = child.try_wait().unwrap().is_none();
        self.child = Some(child);
        is_ready && is_running
    }

    fn is_ready(&self) -> bool {
        if self.is_tls {
            // It listens as soon as it serves.
            return self.log().contains("serving client traffic securely");
        }
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) else { return false };
        let mut answer = String::new();
        let asked = stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains("true")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// As a power cut does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Forgets everything. It must not be running.
    pub(crate) fn lose_data(&mut self) {
        assert!(self.child.is_none());
        std::fs::remove_dir_all(self.dir.path().join("data")).unwrap();
    }

    /// `host:port`.
    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn address(&self) -> String {
        format!("etcd://{}", self.endpoint())
    }

    pub(crate) fn store(&self) -> EtcdStore {
        EtcdStore::new(&self.address()).unwrap()
    }

    /// A directory that goes with it.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Does something with etcd's own client.
    pub(crate) fn admin<T>(
        &self,
        user: Option<(&str, &str)>,
        run: impl AsyncFnOnce(&mut etcd_client::Client) -> Result<T, etcd_client::Error>,
    ) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let user = user.map(|(name, password)| etcd_client::ConnectOptions::new().with_user(name, password));
        runtime.block_on(async {
            let mut client = etcd_client::Client::connect([self.endpoint()], user).await.unwrap();
            run(&mut client).await.unwrap()
        })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("etcd said: {}", self.log());
        }
        self.kill();
    }
}

/// One that was free just now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
