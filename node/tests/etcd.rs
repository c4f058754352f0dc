//! `nvferry` with an etcd in place of its own metadata service. What the client does in detail is tested with the engine.
#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code")]

mod common;
use common::*;
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

struct Etcd {
    child: Child,
    endpoint: String,
    _dir: TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn etcd() -> Option<Etcd> {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // A port may be taken by someone else between here and there.
    for _ in 0..5 {
        let (endpoint, dir) = (free().to_string(), tempfile::tempdir().unwrap());
        let (client, peer) = (format!("http://{endpoint}"), format!("http://{}", free()));
        let mut command = Command::new("etcd");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.arg("--data-dir").arg(dir.path()).args(["--name", "one", "--initial-cluster", &format!("one={peer}")]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(child) = command.spawn() else {
            println!("skipped: no etcd is installed (Debian: etcd-server)");
            return None;
        };
        let mut etcd = Etcd { child, endpoint, _dir: dir };
        for _ in 0..3000 {
            if is_healthy(&etcd.endpoint) {
                return Some(etcd);
            }
            if etcd.child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    panic!("etcd does not start");
}

fn is_healthy(endpoint: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(endpoint) else { return false };
    let mut answer = String::new();
    let asked = stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains("true")
}

#[test]
fn a_target_publishes_to_etcd_and_is_listed_and_shown() {
    let Some(etcd) = etcd() else { return };
    let url = format!("etcd://{}", etcd.endpoint);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let path = path.to_str().unwrap();
    let args = ["target", "--server-name", "node-a:8081", "--trsvcid", "0", "--file", path];
    let role = Role::start(nvferry(&args).arg(format!("--metadata_server={url}")));
    assert!(role.ready.ends_with(&format!("as segment node-a:8081, published at {url}")), "{}", role.ready);
    // The bare form is the original's.
    for server in [url.as_str(), &etcd.endpoint] {
        let (status, listed, error) = run(&["segment", "list", "--metadata-server", server]);
        assert_eq!(status, 0, "{error}");
        assert!(listed.contains("node-a:8081") && listed.contains("1.0 MiB"), "{listed}");
    }
    let (status, shown, error) = run(&["segment", "show", "node-a:8081", "--metadata-server", &url]);
    assert_eq!(status, 0, "{error}");
    assert!(shown.contains(path), "{shown}");
    let (status, _, error) = run(&["segment", "show", "nowhere", "--metadata-server", &url]);
    assert_eq!(status, 1);
    assert!(error.contains("it has node-a:8081"), "{error}");
    let (status, _, error) = role.stop(Signal::SIGTERM);
    assert_eq!(status, 0, "{error}");
    let (_, listed, _) = run(&["segment", "list", "--metadata-server", &url]);
    assert_eq!(listed.trim(), format!("no segments at {url}"));
}

#[test]
fn the_password_is_nowhere_to_be_seen() {
    let Some(etcd) = etcd() else { return };
    let url = format!("etcd://node@{}", etcd.endpoint);
    let mut command = nvferry(&["-vv", "segment", "list", "--metadata-server", &url]);
    command.env("NVFERRY_ETCD_PASSWORD", "geheim-17").env("NVFERRY_LOG", "trace");
    // This etcd knows no users, and says so after the password was sent.
    let (status, said, error) = ended(&mut command);
    assert_eq!(status, 1);
    assert!(error.contains("leave the user out of the address"), "{error}");
    assert!(!said.contains("geheim") && !error.contains("geheim"), "{error}");
}
