//! Everything that can be wrong with what a person asks for: one clear sentence on stderr, an exit status, and
//! nothing left behind, neither a published segment nor a file.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Ended, Room, answering, closed_port, metadata, published, server, silent};
use nvferry_store::MetadataServer;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;

/// Runs a target on these files with a metadata server beside it, and checks that nothing was published or left.
#[track_caller]
fn refused_target(room: &Room, files: &str, more: &[&str]) -> Ended {
    let server = metadata();
    let before = room.entries();
    let flags = [
        "--mode=target",
        &format!("--metadata_server={}", server.url()),
        "--local_server_name=refused",
        &format!("--files={files}"),
        "--trsvcid=0",
    ];
    let flags = [&flags, more].concat();
    let ended = room.run(&flags);
    assert_eq!(published(&server, "refused"), None, "{ended:#?}");
    assert_eq!(room.entries(), before, "{ended:#?}");
    ended
}

/// Runs a loopback that must fail, and checks that its temporary file is gone.
#[track_caller]
fn refused_loopback(room: &Room, flags: &[&str]) -> Ended {
    let before = room.entries();
    let ended = room.run(&[&["--duration=0.1", "--file_size=1M", "--control_timeout=2"], flags].concat());
    assert_eq!(room.entries(), before, "{ended:#?}");
    ended
}

/// Runs an initiator on a segment that it cannot have.
fn refused_initiator(room: &Room, metadata_url: &str, flags: &[&str]) -> Ended {
    let url = format!("--metadata_server={metadata_url}");
    let common = ["--mode=initiator", &url, "--segment_id=nowhere", "--duration=0.1", "--control_timeout=2"];
    room.run(&[&common, flags].concat())
}

fn put(server: &MetadataServer, key: &str, value: &str) {
    let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
    let request = format!(
        "PUT /metadata?key={key} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{value}",
        value.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn values_that_are_none_are_usage_errors() {
    let room = Room::new();
    for (flag, words) in [
        ("--block_size=0", "0 bytes"),
        ("--block_size=64q", "is not a size"),
        ("--block_size=2G", "at most 1 GiB"),
        ("--mode=both", "--mode"),
        ("--operation=erase", "--operation"),
        ("--pattern=zigzag", "--pattern"),
        ("--report_unit=furlongs", "furlongs"),
        ("--report_precision=12", "--report_precision"),
        ("--duration=0", "above 0"),
        ("--duration=soon", "number of seconds"),
        ("--timeout=-1", "--timeout"),
        ("--threads=0", "--threads"),
        ("--batch_size=0", "--batch_size"),
        ("--queue_depth=0", "--queue_depth"),
        ("--workers=0", "--workers"),
        ("--trtype=pigeon", "--trtype"),
        ("--trsvcid=70000", "--trsvcid"),
        ("--digests=some", "--digests"),
        ("--direct=maybe", "--direct"),
        ("--host_driver=spdk", "--host_driver"),
        ("--target_driver=none", "--target_driver"),
        ("--no_such_flag", "--no_such_flag"),
        ("--json=/no/such/directory/report.json", "/no/such/directory"),
        // Not even root can write it.
        ("--json=/proc/sys/kernel/ostype", "ermission denied"),
    ] {
        room.run(&[flag]).assert_refused(2, &[words]);
    }
    assert!(room.entries().is_empty());
}

#[test]
fn what_a_mode_needs_must_be_there() {
    let room = Room::new();
    room.run(&["--mode=target", "--files=/x"]).assert_refused(2, &["--metadata_server"]);
    room.run(&["--mode=target", "--metadata_server=http://127.0.0.1:1/m"]).assert_refused(2, &["--files"]);
    room.run(&["--mode=initiator", "--segment_id=x"]).assert_refused(2, &["--metadata_server"]);
    room.run(&["--mode=initiator", "--metadata_server=http://127.0.0.1:1/m"]).assert_refused(2, &["--segment_id"]);
    let flags = ["--mode=initiator", "--metadata_server=http://127.0.0.1:1/m", "--segment_id=x", "--files=/x"];
    room.run(&flags).assert_refused(2, &["--files"]);
}

#[test]
fn files_that_cannot_be_served() {
    let room = Room::new();
    let good = room.file("good", 1 << 20);
    let good = good.to_str().unwrap();
    let empty = room.file("empty", 0);
    let dir = room.path().join("dir");
    std::fs::create_dir(&dir).unwrap();
    let missing = room.path().join("missing");
    for (bad, words) in [
        (missing.to_str().unwrap(), "No such file"),
        (dir.to_str().unwrap(), "directory"),
        (empty.to_str().unwrap(), "empty"),
        ("/dev/null", "neither a regular file nor a block device"),
    ] {
        refused_target(&room, bad, &[]).assert_refused(1, &[bad, words]);
        // Also when others are good: all or none.
        refused_target(&room, &format!("{good} {bad}"), &[]).assert_refused(1, &[bad, words]);
        refused_loopback(&room, &[&format!("--files={bad}")]).assert_refused(1, &[bad, words]);
    }
    refused_target(&room, good, &["--file_size=2M"]).assert_refused(1, &[good, "2097152 bytes", "1048576 bytes"]);
}

#[test]
fn a_file_that_may_not_be_opened() {
    let room = Room::new();
    let file = room.file("secret", 4096);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).unwrap();
    let flag = format!("--files={}", file.display());
    let mut command = room.command(&["--duration=0.1", &flag]);
    if nix::unistd::geteuid().is_root() {
        // Root may open everything: run as nobody, from where nobody can read.
        let copy = room.path().join("transfer-bench");
        std::fs::copy(env!("CARGO_BIN_EXE_transfer-bench"), &copy).unwrap();
        for path in [room.path(), &copy] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        command = std::process::Command::new(copy);
        command.args(["--duration=0.1", &flag]).uid(65534).gid(65534);
    }
    let output = command.output().unwrap();
    let ended = Ended {
        status: output.status,
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    ended.assert_refused(1, &["secret", "ermission denied"]);
}

#[test]
fn one_file_twice() {
    let room = Room::new();
    let file = room.file("file", 1 << 20);
    let file = file.to_str().unwrap();
    let (link, hard) = (room.path().join("link"), room.path().join("hard"));
    symlink(file, &link).unwrap();
    std::fs::hard_link(file, &hard).unwrap();
    refused_target(&room, &format!("{file} {file}"), &[]).assert_refused(2, &["twice"]);
    for other in [link.to_str().unwrap(), hard.to_str().unwrap()] {
        refused_target(&room, &format!("{file} {other}"), &[]).assert_refused(2, &[file, other, "the same file"]);
    }
}

#[test]
fn writing_to_what_is_not_the_benchs_own_needs_leave() {
    let room = Room::new();
    let file = room.file("precious", 1 << 20);
    let before = std::fs::read(&file).unwrap();
    let files = format!("--files={}", file.display());
    for flags in [&["--operation=write"][..], &["--verify"], &["--operation=write", "--verify"]] {
        refused_loopback(&room, &[&[files.as_str()], flags].concat()).assert_refused(2, &["precious", "--overwrite"]);
        let nowhere = "http://127.0.0.1:1/metadata";
        refused_initiator(&room, nowhere, flags).assert_refused(2, &["--overwrite"]);
    }
    // In loopback, another's segment is not the bench's own either.
    refused_loopback(&room, &["--segment_id=other", "--verify"]).assert_refused(2, &["other", "--overwrite"]);
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[test]
fn blocks_that_do_not_fit() {
    let room = Room::new();
    let file = room.file("small", 100_000);
    let files = format!("--files={}", file.display());
    refused_loopback(&room, &[&files, "--file_size=100000", "--block_size=100001"])
        .assert_refused(1, &["small", "--block_size"]);
    refused_loopback(&room, &["--block_size=2M"]).assert_refused(1, &["2 MiB", "1 MiB"]);
    refused_loopback(&room, &["--range=4k"]).assert_refused(1, &["64 KiB", "4 KiB"]);
    // More threads that write than blocks.
    let flags = ["--operation=write", "--block_size=512k", "--threads=3"];
    refused_loopback(&room, &flags).assert_refused(2, &["3 threads", "only 2"]);
    refused_loopback(&room, &["--block_size=1G", "--queue_depth=1000"]).assert_refused(2, &["memory"]);
}

#[test]
fn a_temporary_file_that_finds_no_room() {
    let room = Room::new();
    refused_loopback(&room, &[]).assert_ok();
    room.run(&["--file_size=1000T"]).assert_refused(1, &["TMPDIR"]);
    let gone = room.path().join("gone");
    let output = room.command(&["--duration=0.1"]).env("TMPDIR", &gone).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("gone") && stderr.contains("TMPDIR"), "{stderr}");
}

#[test]
fn a_port_in_use() {
    let room = Room::new();
    let file = room.file("file", 1 << 20);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let flag = format!("--trsvcid={port}");
    refused_target(&room, file.to_str().unwrap(), &[&flag]).assert_refused(1, &[&port, "in use"]);
    refused_loopback(&room, &[&flag]).assert_refused(1, &[&port, "in use"]);
}

#[test]
fn an_address_that_is_none_or_not_this_machines() {
    let room = Room::new();
    let file = room.file("file", 1 << 20);
    let file = file.to_str().unwrap();
    refused_target(&room, file, &["--traddr=192.0.2.1"]).assert_refused(1, &["192.0.2.1"]);
    refused_target(&room, file, &["--traddr=nonsense"]).assert_refused(1, &["nonsense"]);
    refused_target(&room, file, &["--adrfam=ipv6"]).assert_refused(1, &["127.0.0.1"]);
    refused_target(&room, file, &["--trtype=rdma"]).assert_refused(2, &["rdma"]);
}

/// All three modes with a metadata service that fails in this way.
#[track_caller]
fn refused_everywhere(address: SocketAddr, words: &[&str]) {
    let room = Room::new();
    let file = room.file("file", 1 << 20);
    let before = room.entries();
    let url = format!("http://{address}/metadata");
    let metadata = format!("--metadata_server={url}");
    let files = format!("--files={}", file.display());
    let target = ["--mode=target", &metadata, &files, "--trsvcid=0", "--control_timeout=1"];
    room.run(&target).assert_refused(1, words);
    refused_loopback(&room, &[&metadata, "--control_timeout=1"]).assert_refused(1, words);
    refused_initiator(&room, &url, &["--control_timeout=1"]).assert_refused(1, words);
    assert_eq!(room.entries(), before);
}

#[test]
fn a_metadata_server_that_is_down() {
    let address = closed_port();
    refused_everywhere(address, &[&address.to_string(), "refused"]);
}

#[test]
fn a_metadata_server_that_never_answers() {
    let address = silent();
    refused_everywhere(address, &[&address.to_string()]);
}

#[test]
fn a_metadata_server_that_talks_nonsense() {
    let address = answering(b"SSH-2.0-OpenSSH_9.2p1\r\n");
    refused_everywhere(address, &[&address.to_string()]);
}

#[test]
fn a_metadata_server_that_only_fails() {
    let address =
        answering(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\nConnection: close\r\n\r\nsorry");
    refused_everywhere(address, &[&address.to_string(), "500"]);
}

#[test]
fn a_metadata_server_that_hangs_up() {
    let address = server(drop);
    refused_everywhere(address, &[&address.to_string()]);
}

#[test]
fn a_metadata_url_that_is_none() {
    let room = Room::new();
    refused_loopback(&room, &["--metadata_server=carrier pigeon"]).assert_refused(1, &["carrier pigeon"]);
}

#[test]
fn a_segment_that_does_not_exist() {
    let (room, server) = (Room::new(), metadata());
    refused_initiator(&room, server.url(), &[]).assert_refused(1, &["nowhere", "no such segment"]);
}

#[test]
fn a_segment_that_is_not_what_it_should_be() {
    let (room, server) = (Room::new(), metadata());
    let key = "mooncake/ram/nowhere";
    put(&server, key, "{\"name\": 7");
    refused_initiator(&room, server.url(), &[]).assert_refused(1, &["nowhere"]);
    put(&server, key, r#"{"name":"nowhere","protocol":"rdma","devices":[]}"#);
    refused_initiator(&room, server.url(), &[]).assert_refused(1, &["nowhere", "rdma"]);
}

/// A descriptor of a segment with one file, at this address.
fn descriptor(address: SocketAddr, file_buffers: &str) -> String {
    format!(
        r#"{{"name":"nowhere","protocol":"nvmeof_generic","tcp_data_port":0,"timestamp":"2026-01-01 00:00:00.000000",
            "nvmeof_generic_trid":{{"trtype":"tcp","adrfam":"ipv4","traddr":"{}","trsvcid":"{}",
            "subnqn":"nqn.2016-06.io.mc:nowhere"}},"file_buffers":[{file_buffers}]}}"#,
        address.ip(),
        address.port()
    )
}

const ONE_FILE: &str = r#"{"id":1,"path":"/f","size":1048576,"align":512}"#;

#[test]
fn a_target_that_cannot_be_reached() {
    let (room, server) = (Room::new(), metadata());
    let address = closed_port();
    put(&server, "mooncake/ram/nowhere", &descriptor(address, ONE_FILE));
    let port = address.port().to_string();
    refused_initiator(&room, server.url(), &[]).assert_refused(1, &["nowhere", &port]);
}

#[test]
fn a_target_that_never_answers() {
    let (room, server) = (Room::new(), metadata());
    let address = silent();
    put(&server, "mooncake/ram/nowhere", &descriptor(address, ONE_FILE));
    let port = address.port().to_string();
    refused_initiator(&room, server.url(), &["--control_timeout=1"]).assert_refused(1, &["nowhere", &port]);
}

#[test]
fn a_target_that_talks_nonsense() {
    let (room, server) = (Room::new(), metadata());
    let address = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    put(&server, "mooncake/ram/nowhere", &descriptor(address, ONE_FILE));
    refused_initiator(&room, server.url(), &["--control_timeout=1"]).assert_refused(1, &["nowhere"]);
}
