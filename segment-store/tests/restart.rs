//! What a server that is stopped and started again on the same file still knows.

mod common;
use common::*;
use nvferry_store::{MetadataServer, MetadataServerOptions};

const RPC: &str = "mooncake%2Frpc_meta%2Fnode-a";

#[test]
fn entries_and_versions_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let server = start_on(&store);
    let every_byte: Vec<u8> = (0..=255).collect();
    let version = request(&server, "PUT", "/metadata?key=ram/a", &[], &every_byte).version();
    put(&server, "ram/b", "b");
    let last = delete(&server, "ram/b").version();
    server.shutdown();

    let server = start_on(&store);
    let reply = get(&server, "ram/a");
    assert_eq!((reply.status, reply.version(), reply.body), (200, version, every_byte));
    let reply = get(&server, "ram/b");
    assert_eq!((reply.status, reply.version()), (404, last));
    assert!(put(&server, "ram/b", "b").version() > last);
}

#[test]
fn a_reader_that_knows_a_version_waits_on_the_restarted_server_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let server = start_on(&store);
    let version = put(&server, "k", "1").version();
    server.shutdown();
    let server = start_on(&store);
    let reply = request(&server, "GET", &format!("/metadata?key=k&wait_ms=20&version={version}"), &[], b"");
    assert_eq!((reply.said(), reply.version()), ((200, "1"), version), "it did not change");
    let mut reader = Connection::open(server.address());
    reader.send("GET", &format!("/metadata?key=k&wait_ms=60000&version={version}"), &[], b"");
    until("the reader waits", || metric(&server, "nvferry_metadata_waiters ") == 1.0);
    put(&server, "k", "2");
    assert_eq!(reader.receive().said(), (200, "2"));
}

#[test]
fn owners_have_their_time_once_more_after_a_restart_and_then_expire() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let server = start_on(&store);
    put_as(&server, "ram/renews", "r", "renews", "60000");
    put_as(&server, RPC, "port 1", "renews", "60000");
    put_as(&server, "ram/dies", "d", "dies", "1000");
    server.shutdown();

    let server = start_on(&store);
    let version = get(&server, "ram/dies").version();
    assert_ne!(version, 0, "it has its time once more");
    assert_eq!(put_as(&server, RPC, "port 2", "someone else", "60000").status, 400, "no such owner name");
    assert_eq!(put_as(&server, RPC, "port 2", "someone-else", "60000").status, 409, "the owner is still known");
    let reply = request(&server, "GET", &format!("/metadata?key=ram/dies&wait_ms=30000&version={version}"), &[], b"");
    assert_eq!(reply.status, 404);
    assert_eq!(get(&server, "ram/renews").said(), (200, "r"));
    server.shutdown();

    let server = start_on(&store);
    assert_eq!(get(&server, "ram/dies").status, 404, "expired for good");
}

#[test]
fn without_a_store_nothing_is_kept() {
    let server = start();
    put(&server, "k", "1");
    server.shutdown();
    assert_eq!(get(&start(), "k").status, 404);
}

#[test]
fn shutting_down_answers_readers_that_wait_and_closes_idle_connections() {
    let server = start();
    let version = put(&server, "k", "1").version();
    let mut idle = Connection::open(server.address());
    assert_eq!(idle.request("GET", "/metadata?key=k", &[], b"").status, 200);
    let mut reader = Connection::open(server.address());
    reader.send("GET", &format!("/metadata?key=k&wait_ms=60000&version={version}"), &[], b"");
    until("the reader waits", || metric(&server, "nvferry_metadata_waiters ") == 1.0);
    let address = server.address();
    server.shutdown();
    assert_eq!(reader.receive().said(), (200, "1"));
    idle.closed();
    assert!(std::net::TcpStream::connect(address).is_err(), "nothing listens any more");
}

#[test]
fn shutting_down_does_not_wait_for_those_who_never_end() {
    let patience = std::time::Duration::from_millis(50);
    let server = MetadataServer::start(MetadataServerOptions { patience, ..Default::default() }).unwrap();
    let mut slow = Connection::open(server.address());
    std::io::Write::write_all(&mut slow.stream, b"PUT /metadata?key=k HTTP/1.1\r\ncontent-length: 10\r\n\r\nhalf")
        .unwrap();
    until("it is connected", || metric(&server, "nvferry_metadata_connections ") == 2.0);
    server.shutdown();
    slow.closed();
}

#[test]
fn starting_where_it_cannot_says_why_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let running = start_on(&store);
    let try_start = |change: &dyn Fn(&mut MetadataServerOptions)| {
        let mut options = MetadataServerOptions::default();
        change(&mut options);
        MetadataServer::start(options).expect_err("it cannot start").to_string()
    };

    let address = running.address().to_string();
    assert_eq!(
        try_start(&|options| options.listen = address.clone()),
        format!("cannot listen on {address}: the port is in use; choose another, or stop the program that has it")
    );
    assert_eq!(
        try_start(&|options| options.listen = "192.0.2.1:80".into()),
        "cannot listen on 192.0.2.1:80: this machine does not have this address"
    );
    for listen in ["", "nonsense", "127.0.0.1", "127.0.0.1:99999", ":8080", "[::1:80"] {
        let said = try_start(&|options| options.listen = listen.into());
        assert!(said.starts_with(&format!("cannot listen on `{listen}`: ")), "{said}");
        assert!(said.ends_with("; give address:port, such as 127.0.0.1:8080"), "{said}");
    }
    for (path, reason) in [
        ("", "does not begin with a slash"),
        ("metadata", "does not begin with a slash"),
        ("/health", "is taken by the server itself"),
        ("/a?b", "has characters other than letters, digits and /-._~"),
    ] {
        let said = try_start(&|options| options.path = path.into());
        assert_eq!(said, format!("the metadata path `{path}` {reason}; the usual one is /metadata"));
    }
    let said = try_start(&|options| options.store = Some(store.clone()));
    assert!(said.contains("is in use by another process"), "{said}");
    running.shutdown();
    start_on(&store).shutdown();
}
