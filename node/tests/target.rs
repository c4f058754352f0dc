//! `nvferry target` as people and scripts run it.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;
use common::*;
use nix::sys::signal::Signal;
use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use tempfile::TempDir;

const NAME: &str = "node-a:8081";
const SEGMENT: &str = "?key=mooncake%2Fram%2Fnode-a%3A8081";

fn sized_file(dir: &Path, name: &str, size_bytes: u64) -> String {
    let path = dir.join(name);
    File::create(&path).unwrap().set_len(size_bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

fn target(url: &str, args: &[&str]) -> std::process::Command {
    let fixed = ["target", "--metadata-server", url, "--server-name", NAME, "--trsvcid", "0"];
    nvferry(&[&fixed, args].concat())
}

fn segment(url: &str) -> serde_json::Value {
    let (status, body) = http(url, "GET", SEGMENT, "");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn all_keys(url: &str) -> String {
    http(url, "GET", "?prefix=", "").1
}

const NO_KEYS: &str = r#"{"keys":[],"next_after":null}"#;

#[test]
fn it_publishes_what_it_serves_and_withdraws_it_on_sigterm_and_sigint() {
    let service = metadata();
    let url = service.word("http://");
    let dir = tempfile::tempdir().unwrap();
    let (a, b, c) =
        (sized_file(dir.path(), "a", 1 << 20), sized_file(dir.path(), "b", 8192), sized_file(dir.path(), "c", 4096));
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let role = Role::start(&mut target(&url, &["--file", &format!("{a}:64k"), "--files", &format!("{b} {c}")]));
        let desc = segment(&url);
        let trid = &desc["nvmeof_generic_trid"];
        let port: u16 = trid["trsvcid"].as_str().unwrap().parse().unwrap();
        assert_ne!(port, 0);
        assert_eq!(
            role.ready,
            format!("serving 3 files (76.0 KiB) at 127.0.0.1:{port} as segment {NAME}, published at {url}")
        );
        assert_eq!((&desc["name"], &desc["protocol"]), (&NAME.into(), &"nvmeof_generic".into()));
        assert_eq!(trid["subnqn"], format!("nqn.2016-06.io.mc:{NAME}"));
        let files: Vec<_> = desc["file_buffers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| {
                (
                    file["id"].as_u64().unwrap(),
                    file["path"].as_str().unwrap().to_owned(),
                    file["size"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(files, [(1, a.clone(), 65536), (2, b.clone(), 8192), (3, c.clone(), 4096)]);
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(), "it listens where it says");

        assert_eq!(role.stop(signal), (0, String::new(), String::new()), "{signal}");
        assert_eq!(all_keys(&url), NO_KEYS, "nothing stays published");
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "nothing listens any more");
    }
}

/// What a list names is served; on SIGHUP it is read again, and only what changed is touched.
#[test]
fn a_list_of_files_is_read_again_on_sighup() {
    let service = metadata();
    let url = service.word("http://");
    let dir = tempfile::tempdir().unwrap();
    let (a, b, c) =
        (sized_file(dir.path(), "a", 8192), sized_file(dir.path(), "b", 4096), sized_file(dir.path(), "c", 12288));
    let list = dir.path().join("list");
    let write = |text: String| std::fs::write(&list, text).unwrap();
    let served = || -> Vec<(u64, String)> {
        let desc = segment(&url);
        let files = desc["file_buffers"].as_array().unwrap();
        files.iter().map(|file| (file["id"].as_u64().unwrap(), file["path"].as_str().unwrap().to_owned())).collect()
    };
    write(format!("# what is served\n\n  {a}:4k\n{b}\n"));
    let mut role = Role::start(&mut target(&url, &["--files-from", list.to_str().unwrap()]));
    assert!(role.ready.starts_with("serving 2 files (8.0 KiB)"), "{}", role.ready);
    assert_eq!(served(), [(1, a.clone()), (2, b.clone())]);

    write(format!("{c}\n{b}\n"));
    role.signal(Signal::SIGHUP);
    let line = role.line();
    assert!(line.starts_with("serving 2 files (16.0 KiB)"), "{line}");
    let after = served();
    assert!(after.contains(&(2, b.clone())), "it stays what it was: {after:?}");
    assert!(after.iter().any(|(id, path)| *path == c && *id > 2), "a new file has a new id: {after:?}");
    assert_eq!(after.len(), 2, "{after:?}");

    // A wrong list changes nothing.
    write(format!("{a}\n{}\n", dir.path().join("missing").display()));
    role.signal(Signal::SIGHUP);
    let line = role.line();
    assert!(line.starts_with("serving 2 files (16.0 KiB)"), "{line}");
    assert_eq!(served(), after);
    let (status, _, said) = role.stop(Signal::SIGTERM);
    assert_eq!(status, 0);
    assert!(said.contains("missing") && said.contains("stay as they are"), "{said}");
}

#[test]
fn a_list_that_cannot_be_read_is_said_with_its_line() {
    let service = metadata();
    let url = service.word("http://");
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    std::fs::write(&list, "\n/a:b:0\n").unwrap();
    fails(&url, &["--files-from", list.to_str().unwrap()], &["line 2", list.to_str().unwrap()]);
    std::fs::write(&list, "# nothing\n").unwrap();
    fails(&url, &["--files-from", list.to_str().unwrap()], &["no file to serve"]);
    fails(&url, &["--files-from", "/not/there"], &["cannot read the list /not/there"]);
}

#[test]
fn a_relative_path_is_published_as_an_absolute_one() {
    let service = metadata();
    let url = service.word("http://");
    let Files { dir, good } = files();
    let _role = Role::start(target(&url, &["--file", "good:4k"]).current_dir(dir.path()));
    let desc = segment(&url);
    assert_eq!((&desc["file_buffers"][0]["path"], &desc["file_buffers"][0]["size"]), (&good.into(), &4096.into()));
}

#[test]
fn settings_can_come_from_the_environment() {
    let service = metadata();
    let url = service.word("http://");
    let dir = tempfile::tempdir().unwrap();
    let file = sized_file(dir.path(), "a", 4096);
    let mut command = nvferry(&["target", "--file", &file, "--trsvcid", "0"]);
    command.env("MC_METADATA_SERVER", &url).env("NVFERRY_SERVER_NAME", NAME).env("NVFERRY_TRSVCID", "1");
    command.env("NVFERRY_SUBNQN", "nqn.2016-06.io.example:chosen").env("MC_METADATA_CLUSTER_ID", "blue");
    let _role = Role::start(&mut command);
    let (status, body) = http(&url, "GET", "?key=mooncake/blue/ram/node-a:8081", "");
    assert_eq!(status, 200);
    assert!(body.contains(r#""subnqn":"nqn.2016-06.io.example:chosen""#), "{body}");
}

/// It fails with one sentence, and leaves nothing published.
#[track_caller]
fn fails(url: &str, args: &[&str], said: &[&str]) {
    let (status, stdout, stderr) = ended(&mut target(url, args));
    assert_eq!((status, &*stdout), (1, ""), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    for said in said {
        assert!(stderr.starts_with("nvferry: ") && stderr.contains(said), "{args:?}: {stderr}");
    }
}

struct Files {
    dir: TempDir,
    good: String,
}

fn files() -> Files {
    let dir = tempfile::tempdir().unwrap();
    let good = sized_file(dir.path(), "good", 1 << 20);
    Files { dir, good }
}

#[test]
fn files_that_cannot_be_served_are_said_before_anything_is_published() {
    let service = metadata();
    let url = service.word("http://");
    let Files { dir, good } = files();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let directory = dir.path().to_str().unwrap().to_owned();
    let empty = sized_file(dir.path(), "empty", 0);
    std::os::unix::fs::symlink(&good, path("link")).unwrap();
    let cases = [
        (path("missing"), format!("cannot serve {}: No such file or directory (os error 2); give", path("missing"))),
        (directory.clone(), format!("cannot serve {directory}: it is a directory")),
        (empty.clone(), format!("cannot serve {empty}: it is empty")),
        (format!("{good}:2M"), format!("cannot serve 2097152 bytes of {good}: it has 1048576 bytes")),
        ("/dev/null".into(), "cannot serve /dev/null: it is neither a regular file nor a block device".into()),
        (
            "/proc/sys/kernel/ostype".into(),
            "cannot serve /proc/sys/kernel/ostype: it cannot be opened for reading and writing: Permission denied"
                .into(),
        ),
        (good.clone(), format!("{good} and {good} are the same file; give it once")),
        (path("link"), format!("{good} and {} are the same file; give it once", path("link"))),
    ];
    for (file, said) in cases {
        fails(&url, &["--file", &good, "--file", &file], &[&said]);
        assert_eq!(all_keys(&url), NO_KEYS, "after {said}");
    }
    fails(&url, &["--files", "  "], &["there is no file to serve; give --file PATH"]);
}

#[test]
fn an_address_that_cannot_be_is_said() {
    let service = metadata();
    let url = service.word("http://");
    let Files { dir: _dir, good } = files();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _holder = TcpListener::bind(taken).unwrap();
    let port = taken.port().to_string();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--trsvcid", &port], &[&port, "in use"]),
        (&["--traddr", "192.0.2.1"], &["192.0.2.1"]),
        (&["--traddr", "0.0.0.0"], &["--traddr 0.0.0.0 is no address that hosts can connect to"]),
        (&["--traddr", "::"], &["--traddr :: is no address"]),
        (&["--traddr", "node-a"], &["traddr=node-a"]),
        (&["--trsvcid", "99999"], &["trsvcid=99999"]),
        (&["--trtype", "carrier-pigeon"], &["trtype=carrier-pigeon"]),
        (&["--adrfam", "ipv6"], &["adrfam=ipv6 does not fit traddr=127.0.0.1"]),
        (&["--subnqn", "not an nqn"], &["--subnqn not an nqn: a value without blanks is needed"]),
        (&["--subnqn", "nonsense"], &["subnqn"]),
        (&["--direct", "maybe"], &["direct=maybe"]),
    ];
    for (args, said) in cases {
        let fixed = ["target", "--metadata-server", &url, "--server-name", NAME, "--file", &good];
        let port: &[&str] = if args[0] == "--trsvcid" { &[] } else { &["--trsvcid", "0"] };
        let (status, stdout, stderr) = run(&[&fixed, port, args].concat());
        assert_eq!((status, &*stdout), (1, ""), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
        for said in *said {
            assert!(stderr.starts_with("nvferry: ") && stderr.contains(said), "{args:?}: {stderr}");
        }
        assert_eq!(all_keys(&url), NO_KEYS, "{args:?}");
    }
}

#[test]
fn a_metadata_service_that_cannot_be_used_is_said() {
    let Files { dir: _dir, good } = files();
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{unused}/metadata");
    fails(&url, &["--file", &good], &["could not be published", &url, "Connection refused"]);
    let broken = answering("HTTP/1.1 500 Internal Server Error\r\nconnection: close\r\ncontent-length: 4\r\n\r\noops");
    fails(&broken, &["--file", &good], &["could not be published", "it answered 500: oops"]);
    fails("gopher://a", &["--file", &good], &["gopher://a"]);
}

#[test]
fn a_port_that_another_target_has_is_refused_and_the_other_serves_on() {
    let service = metadata();
    let url = service.word("http://");
    let Files { dir, good } = files();
    let first = Role::start(&mut target(&url, &["--file", &good]));
    let before = segment(&url);
    let other = sized_file(dir.path(), "other", 4096);
    let port = port_of(&before);
    let args = ["target", "--metadata-server", &url, "--server-name", "node-b:1", "--file", &other, "--trsvcid", &port];
    let (status, _, stderr) = run(&args);
    assert_eq!(status, 1);
    assert!(stderr.contains(&port) && stderr.contains("in use"), "{stderr}");
    assert_eq!(segment(&url), before);
    assert_eq!(http(&url, "GET", "?key=mooncake/ram/node-b:1", "").0, 404);
    assert_eq!(first.stop(Signal::SIGTERM).0, 0);
}

fn port_of(desc: &serde_json::Value) -> String {
    desc["nvmeof_generic_trid"]["trsvcid"].as_str().unwrap().to_owned()
}

#[test]
fn p09_a_target_that_was_killed_starts_again_at_once() {
    let service = metadata();
    let url = service.word("http://");
    let Files { dir: _dir, good } = files();
    let mut port = String::from("0");
    for _ in 0..3 {
        let fixed = ["target", "--metadata-server", &url, "--server-name", NAME, "--file", &good, "--trsvcid", &port];
        let role = Role::start(&mut nvferry(&fixed));
        port = port_of(&segment(&url));
        assert_eq!(role.stop(Signal::SIGKILL).0, 128 + Signal::SIGKILL as i32);
    }
    let fixed = ["target", "--metadata-server", &url, "--server-name", NAME, "--file", &good, "--trsvcid", &port];
    let role = Role::start(&mut nvferry(&fixed));
    assert_eq!(role.stop(Signal::SIGTERM).0, 0);
    assert_eq!(all_keys(&url), NO_KEYS);
}

#[test]
fn what_it_serves_is_what_segment_show_says() {
    let service = metadata();
    let url = service.word("http://");
    let Files { dir: _dir, good } = files();
    let role = Role::start(&mut target(&url, &["--file", &good]));
    let (status, stdout, stderr) = run(&["segment", "show", NAME, "--metadata-server", &url]);
    assert_eq!((status, &*stderr), (0, ""));
    let port = port_of(&segment(&url));
    let expected =
        format!("target     trtype=tcp adrfam=ipv4 traddr=127.0.0.1 trsvcid={port} subnqn=nqn.2016-06.io.mc:{NAME}");
    assert!(stdout.lines().any(|line| line == expected), "{stdout}");
    let (status, stdout, _) = run(&["segment", "show", "--json", NAME, "--metadata-server", &url]);
    assert_eq!((status, stdout.trim_end()), (0, &*http(&url, "GET", SEGMENT, "").1));
    let (_, stdout, _) = run(&["segment", "list", "--metadata-server", &url]);
    assert!(stdout.contains(&format!("\n{NAME}  1      1.0 MiB  nvmeof_generic  127.0.0.1:{port}  ")), "{stdout}");
    drop(role);
}

#[test]
fn when_the_metadata_service_is_gone_it_ends_all_the_same_and_says_so() {
    let service = metadata();
    let url = service.word("http://");
    let Files { dir: _dir, good } = files();
    let role = Role::start(&mut target(&url, &["--file", &good]));
    drop(service);
    let (status, stdout, stderr) = role.stop(Signal::SIGTERM);
    assert_eq!((status, &*stdout), (1, ""));
    assert!(stderr.contains(&format!("segment {NAME} has ended, but not in order")), "{stderr}");
    assert!(stderr.contains("Connection refused"), "{stderr}");
}
