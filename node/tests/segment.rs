//! `nvferry segment list|show`, on descriptions that another program published.

mod common;
use common::*;
use std::net::TcpListener;

const ONE: &str = r#"{"name":"10.0.0.7:8081","protocol":"nvmeof_generic","tcp_data_port":0,"timestamp":"2026-01-02 03:04:05.000006","nvmeof_generic_trid":{"trtype":"tcp","adrfam":"ipv4","traddr":"10.0.0.7","trsvcid":"4420","subnqn":"nqn.x"},"file_buffers":[{"id":1,"path":"/data/a.seg","size":68719476736,"align":4096},{"id":3,"path":"/data/\u001b[2Jb","size":12345,"align":1}]}"#;
const TWO: &str = r#"{"name":"pool/b","protocol":"rdma","devices":[ ],  "timestamp":"t"}"#;

fn publish(url: &str) {
    for (key, value) in [
        ("mooncake/ram/10.0.0.7:8081", ONE),
        ("mooncake/pool/b", TWO),
        ("mooncake/ram/broken", "[1, 2"),
        ("mooncake/rpc_meta/10.0.0.7:8081", "{}"),
        ("mooncake/blue/ram/other-cluster", ONE),
        ("something/else", "{}"),
    ] {
        assert_eq!(http(url, "PUT", &format!("?key={key}"), value).0, 200);
    }
}

fn segment(url: &str, args: &[&str]) -> (i32, String, String) {
    run(&[&["segment"], args, &["--metadata-server", url]].concat())
}

#[test]
fn list_shows_what_is_published() {
    let service = metadata();
    let url = service.word("http://");
    assert_eq!(segment(&url, &["list"]), (0, format!("no segments at {url}\n"), String::new()));
    publish(&url);
    let (status, stdout, stderr) = segment(&url, &["list"]);
    assert_eq!((status, &*stderr), (0, ""));
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[0], "SEGMENT        FILES  SIZE      PROTOCOL        ADDRESS        PUBLISHED");
    assert_eq!(lines[3], "pool/b         0      0 B       rdma            -              t");
    assert_eq!(lines[1], "10.0.0.7:8081  2      64.0 GiB  nvmeof_generic  10.0.0.7:4420  2026-01-02 03:04:05.000006");
    assert!(
        lines[2].starts_with("broken         ?      ?         ?               ?              does not hold"),
        "{}",
        lines[2]
    );
    assert_eq!(lines.len(), 4);

    let (status, stdout, _) = segment(&url, &["list", "--cluster-id", "blue"]);
    assert_eq!((status, stdout.lines().count()), (0, 2));
    assert!(stdout.contains("\nother-cluster"), "{stdout}");
}

#[test]
fn list_as_json_holds_the_descriptions_as_published() {
    let service = metadata();
    let url = service.word("http://");
    assert_eq!(segment(&url, &["list", "--json"]).1, "[]\n");
    publish(&url);
    let (status, stdout, _) = segment(&url, &["list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let published = |text| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let expected = serde_json::json!([
        {"name": "10.0.0.7:8081", "segment": published(ONE)},
        {"name": "broken", "segment": "[1, 2"},
        {"name": "pool/b", "segment": published(TWO)},
    ]);
    assert_eq!((status, listed), (0, expected));
}

#[test]
fn show_tells_where_a_segment_is_and_what_it_offers() {
    let service = metadata();
    let url = service.word("http://");
    publish(&url);
    let (status, stdout, stderr) = segment(&url, &["show", "10.0.0.7:8081"]);
    let expected = "\
segment    10.0.0.7:8081
protocol   nvmeof_generic
published  2026-01-02 03:04:05.000006
target     trtype=tcp adrfam=ipv4 traddr=10.0.0.7 trsvcid=4420 subnqn=nqn.x
files      2, 64.0 GiB

ID  SIZE      BYTES        ALIGN  PATH
1   64.0 GiB  68719476736  4096   /data/a.seg
3   12.1 KiB  12345        1      /data/\u{fffd}[2Jb
";
    assert_eq!((status, &*stdout, &*stderr), (0, expected, ""));
    assert_eq!(segment(&url, &["show", "--json", "pool/b"]), (0, format!("{TWO}\n"), String::new()));
    assert_eq!(segment(&url, &["show", "--json", "broken"]), (0, "[1, 2\n".into(), String::new()));
}

#[test]
fn the_service_can_come_from_the_environment() {
    let service = metadata();
    let url = service.word("http://");
    publish(&url);
    let mut command = nvferry(&["segment", "show", "--json", "pool/b"]);
    assert_eq!(ended(command.env("MC_METADATA_SERVER", &url)).1, format!("{TWO}\n"));
    let (status, _, stderr) = run(&["segment", "list"]);
    assert_eq!(status, 2);
    assert!(stderr.contains("--metadata-server <URL>"), "{stderr}");
}

#[track_caller]
fn fails(url: &str, args: &[&str], said: &[&str]) {
    let (status, stdout, stderr) = segment(url, args);
    assert_eq!((status, &*stdout), (1, ""), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    for said in said {
        assert!(stderr.starts_with("nvferry: ") && stderr.contains(said), "{args:?}: {stderr}");
    }
}

#[test]
fn a_segment_that_does_not_exist_is_said_to_be_missing() {
    let service = metadata();
    let url = service.word("http://");
    fails(
        &url,
        &["show", "nowhere"],
        &[&format!("segment nowhere: the metadata service {url} has no such segment; it has none at all")],
    );
    publish(&url);
    fails(&url, &["show", "nowhere"], &["it has pool/b, 10.0.0.7:8081, broken"]);
    fails(
        &url,
        &["show", "broken"],
        &["segment broken: key mooncake/ram/broken at ", "does not hold a segment's description"],
    );
}

#[test]
fn a_service_that_cannot_be_used_is_named() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{unused}/metadata");
    for args in [&["list"][..], &["show", "a"]] {
        fails(&url, args, &[&url, "Connection refused"]);
        fails("http:///", args, &["http:///"]);
        fails("gopher://a", args, &["gopher://a"]);
        fails(&unused.to_string(), args, &["etcd"]);
    }
    let service = metadata();
    let wrong = service.word("http://").replace("/metadata", "/wrong");
    fails(
        &wrong,
        &["list"],
        &["does not list its keys (it answered 404: nothing is served at this path", "is the path right?"],
    );
    fails(&wrong, &["show", "a"], &["nothing is served at this path; metadata is at /metadata"]);
}

#[test]
fn the_originals_service_is_told_from_one_that_lists() {
    let python = answering(
        "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 24\r\n\r\nmetadata key is required",
    );
    let go = answering("HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 18\r\n\r\nmetadata not found");
    fails(
        &python,
        &["list"],
        &[
            "does not list its keys (it answered 400: metadata key is required)",
            "`nvferry segment show NAME` works with both",
        ],
    );
    fails(&go, &["list"], &["does not list its keys (it answered 404: metadata not found)"]);
    fails(
        &go,
        &["show", "a"],
        &["has no such segment; is its target running, and does it use the same metadata service?"],
    );
}

#[test]
fn nonsense_from_the_service_is_not_believed() {
    let html = answering("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 13\r\n\r\n<html></html>");
    fails(&html, &["list"], &["its answer cannot be read: <html></html>"]);
    fails(&html, &["show", "a"], &["does not hold a segment's description", "<html></html>"]);
    let noise = answering("\0\0\0\0 not HTTP at all\r\n\r\n");
    fails(&noise, &["list"], &["listing of mooncake/ at the metadata service http://"]);
}
