//! What nvferry adds: owners that expire, versions, and readers that wait for a change.

mod common;
use common::*;
use std::sync::mpsc;

const RPC: &str = "mooncake%2Frpc_meta%2Fnode-a";

#[test]
fn an_owner_that_stopped_renewing_expires() {
    let server = start();
    put_as(&server, "ram/a", "a", "owner-1", "300");
    let version = put_as(&server, RPC, "a", "owner-1", "300").version();
    put(&server, "ram/b", "b");
    // The reader is told when it happens, so nothing here has to know how long it takes.
    let reply = request(&server, "GET", &format!("/metadata?key={RPC}&wait_ms=30000&version={version}"), &[], b"");
    assert_eq!(reply.said(), (404, "metadata not found"));
    assert!(reply.version() > version);
    assert_eq!(get(&server, "ram/a").status, 404);
    assert_eq!(get(&server, "ram/b").said(), (200, "b"));
    assert_eq!(metric(&server, "nvferry_metadata_expired_entries_total"), 2.0);
}

#[test]
fn p09_a_killed_nodes_server_name_is_free_once_its_owner_expired() {
    let server = start();
    assert_eq!(put_as(&server, RPC, "port 1", "owner-1", "60000").status, 200);
    let refused = put_as(&server, RPC, "port 2", "owner-2", "60000");
    assert_eq!(refused.status, 409);
    assert!(refused.text().contains("taken by another node (owner owner-1), which expires in "), "{}", refused.text());
    assert_eq!(put_as(&server, RPC, "port 1", "owner-1", "200").said(), (200, "metadata unchanged"));
    let version = get(&server, RPC).version();
    request(&server, "GET", &format!("/metadata?key={RPC}&wait_ms=30000&version={version}"), &[], b"");
    assert_eq!(put_as(&server, RPC, "port 2", "owner-2", "60000").said(), (200, "metadata updated"));
}

#[test]
fn deleting_as_an_owner_spares_what_another_published_since() {
    let server = start();
    put_as(&server, "ram/a", "old", "owner-1", "60000");
    put_as(&server, "ram/a", "new", "owner-2", "60000");
    let mut connection = Connection::open(server.address());
    let reply = connection.request("DELETE", "/metadata?key=ram/a", &[("X-Nvferry-Owner", "owner-1")], b"");
    assert_eq!(
        reply.said(),
        (409, "this entry belongs to another node (owner owner-2), which published it later; it was not deleted")
    );
    assert_eq!(get(&server, "ram/a").said(), (200, "new"));
    let reply = connection.request("DELETE", "/metadata?key=ram/a", &[("X-Nvferry-Owner", "owner-2")], b"");
    assert_eq!(reply.said(), (200, "metadata deleted"));
}

#[test]
fn every_answer_about_a_key_carries_a_version_that_grows_with_each_change() {
    let server = start();
    let seen = [
        get(&server, "k").version(),
        put(&server, "k", "1").version(),
        put(&server, "k", "2").version(),
        delete(&server, "k").version(),
        put(&server, "k", "3").version(),
    ];
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    let same = [put(&server, "k", "3").version(), get(&server, "k").version(), get(&server, "k").version()];
    assert_eq!(same, [seen[4]; 3], "what changes nothing changes no version");
}

#[test]
fn a_reader_that_knows_an_old_version_is_answered_at_once() {
    let server = start();
    let old = put(&server, "k", "1").version();
    let new = put(&server, "k", "2").version();
    let reply = request(&server, "GET", &format!("/metadata?key=k&wait_ms=60000&version={old}"), &[], b"");
    assert_eq!((reply.said(), reply.version()), ((200, "2"), new));
    let reply = request(&server, "GET", "/metadata?key=k&wait_ms=60000&version=0", &[], b"");
    assert_eq!(reply.said(), (200, "2"), "a reader that knows nothing gives version 0");
}

/// Sends a waiting request and returns when the server has it.
fn waiting(server: &nvferry_store::MetadataServer, target: &str) -> Connection {
    let before = metric(server, "nvferry_metadata_waiters ");
    let mut connection = Connection::open(server.address());
    connection.send("GET", target, &[], b"");
    until("the reader waits", || metric(server, "nvferry_metadata_waiters ") > before);
    connection
}

#[test]
fn a_waiting_reader_is_told_of_a_change_of_its_key_and_of_no_other() {
    let server = start();
    let version = put(&server, "k", "1").version();
    let mut reader = waiting(&server, &format!("/metadata?key=k&wait_ms=60000&version={version}"));
    let mut newcomer = waiting(&server, "/metadata?key=to-come&wait_ms=60000");
    put(&server, "other", "x");
    put(&server, "k", "1");
    assert_eq!(metric(&server, "nvferry_metadata_waiters "), 2.0, "both still wait");
    let new = put(&server, "k", "2").version();
    let reply = reader.receive();
    assert_eq!((reply.said(), reply.version()), ((200, "2"), new));
    put(&server, "to-come", "here");
    assert_eq!(newcomer.receive().said(), (200, "here"));
    let mut reader = waiting(&server, &format!("/metadata?key=k&wait_ms=60000&version={new}"));
    delete(&server, "k");
    assert_eq!(reader.receive().status, 404);
}

#[test]
fn a_wait_ends_with_what_is_there() {
    let server = start();
    let version = put(&server, "k", "1").version();
    let reply = request(&server, "GET", &format!("/metadata?key=k&wait_ms=20&version={version}"), &[], b"");
    assert_eq!((reply.said(), reply.version()), ((200, "1"), version));
    let reply = request(&server, "GET", "/metadata?key=missing&wait_ms=20", &[], b"");
    assert_eq!(reply.status, 404);
    assert_eq!(metric(&server, "nvferry_metadata_waiters "), 0.0);
}

#[test]
fn a_reader_that_goes_away_gives_up_its_place() {
    let server = start();
    let reader = waiting(&server, "/metadata?key=k&wait_ms=60000");
    drop(reader);
    until("its place is free", || metric(&server, "nvferry_metadata_waiters ") == 0.0);
}

#[test]
fn changes_by_many_at_once_are_all_seen() {
    let server = start();
    let (done, all_done) = mpsc::channel();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let (server, done) = (&server, done.clone());
            scope.spawn(move || {
                let mut connection = Connection::open(server.address());
                for round in 0..50 {
                    let target = format!("/metadata?key=ram/{writer}-{round}");
                    assert_eq!(connection.request("PUT", &target, &[], b"{}").status, 200);
                    // Acknowledged means visible.
                    assert_eq!(connection.request("GET", &target, &[], b"").status, 200);
                }
                done.send(()).unwrap();
            });
        }
    });
    assert_eq!(all_done.try_iter().count(), 8);
    assert_eq!(metric(&server, "nvferry_metadata_entries "), 400.0);
}

#[test]
fn headers_that_make_no_sense_are_400_and_change_nothing() {
    let server = start();
    let owner = ("X-Nvferry-Owner", "o");
    let long = "x".repeat(129);
    let cases: &[(&[(&str, &str)], &str)] = &[
        (
            &[owner, ("X-Nvferry-Ttl-Ms", "0")],
            "X-Nvferry-Ttl-Ms must be a whole number of milliseconds from 1 to 86400000",
        ),
        (&[owner, ("X-Nvferry-Ttl-Ms", "soon")], "X-Nvferry-Ttl-Ms must be"),
        (&[owner, ("X-Nvferry-Ttl-Ms", "86400001")], "X-Nvferry-Ttl-Ms must be"),
        (&[("X-Nvferry-Ttl-Ms", "5")], "X-Nvferry-Owner must be there where X-Nvferry-Ttl-Ms is"),
        (&[("X-Nvferry-Owner", "")], "X-Nvferry-Owner must be 1 to 128 visible ASCII characters"),
        (&[("X-Nvferry-Owner", "two words")], "X-Nvferry-Owner must be"),
        (&[("X-Nvferry-Owner", &long)], "X-Nvferry-Owner must be"),
    ];
    for (headers, text) in cases {
        let reply = request(&server, "PUT", "/metadata?key=k", headers, b"v");
        assert_eq!(reply.status, 400, "{headers:?}");
        assert!(reply.text().contains(text), "{headers:?}: {}", reply.text());
    }
    for query in ["key=k&wait_ms=x", "key=k&wait_ms=5&version=-1", "key=k&wait_ms=5&version=99999999999999999999"] {
        assert_eq!(request(&server, "GET", &format!("/metadata?{query}"), &[], b"").status, 400, "{query}");
    }
    assert_eq!(get(&server, "k").status, 404);
}
