//! Byte for byte what the original's metadata server answers, as its clients ask.

mod common;
use common::*;

/// What a node of the original publishes, as it escapes and writes it.
const KEY: &str = "mooncake%2Fram%2F10.0.0.9%3A8081";
const VALUE: &str = r#"{"name":"10.0.0.9:8081","protocol":"nvmeof_generic","tcp_data_port":0}"#;

#[test]
fn a_value_goes_in_and_comes_out_and_goes() {
    let server = start();
    assert_eq!(get(&server, KEY).said(), (404, "metadata not found"));
    assert_eq!(put(&server, KEY, VALUE).said(), (200, "metadata updated"));
    let reply = get(&server, KEY);
    assert_eq!(reply.said(), (200, VALUE));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(put(&server, KEY, "{}").said(), (200, "metadata updated"));
    assert_eq!(put(&server, KEY, "{}").said(), (200, "metadata updated"));
    assert_eq!(get(&server, KEY).said(), (200, "{}"));
    assert_eq!(delete(&server, KEY).said(), (200, "metadata deleted"));
    assert_eq!(get(&server, KEY).said(), (404, "metadata not found"));
    assert_eq!(delete(&server, KEY).said(), (404, "metadata not found"));
}

#[test]
fn encoded_and_plain_spellings_are_one_key() {
    let server = start();
    put(&server, KEY, VALUE);
    for spelling in ["mooncake/ram/10.0.0.9:8081", "mooncake%2fram%2f10.0.0.9%3a8081", "%6dooncake/ram/10.0.0.9%3A8081"]
    {
        assert_eq!(get(&server, spelling).said(), (200, VALUE), "{spelling}");
    }
    assert_eq!(get(&server, "mooncake/ram/10.0.0.9").status, 404);
    put(&server, "a%20b", "space");
    assert_eq!(get(&server, "a+b").said(), (200, "space"));
    assert_eq!(get(&server, "a%2Bb").status, 404);
    put(&server, "%C3%BC%E2%9C%93", "letters of all kinds");
    assert_eq!(get(&server, "%c3%bc%e2%9c%93").said(), (200, "letters of all kinds"));
}

#[test]
fn any_bytes_are_kept_exactly() {
    let server = start();
    let every_byte: Vec<u8> = (0..=255).collect();
    for value in [&every_byte[..], b"", b"not json", b"{\"a\" : 1}\r\n"] {
        assert_eq!(request(&server, "PUT", "/metadata?key=k", &[], value).status, 200);
        let reply = get(&server, "k");
        assert_eq!((reply.status, &reply.body[..]), (200, value));
    }
    let large: Vec<u8> = (0..4 << 20).map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert_eq!(request(&server, "PUT", "/metadata?key=large", &[], &large).status, 200);
    assert!(get(&server, "large").body == large, "4 MiB came back changed");
}

#[test]
fn a_missing_key_is_400() {
    let server = start();
    for method in ["GET", "PUT", "DELETE"] {
        for target in ["/metadata", "/metadata?", "/metadata?key=", "/metadata?key", "/metadata?kay=a"] {
            let reply = request(&server, method, target, &[], b"");
            assert_eq!(reply.said(), (400, "metadata key is required"), "{method} {target}");
        }
    }
}

#[test]
fn another_method_is_405() {
    let server = start();
    put(&server, "k", "kept");
    for method in ["POST", "PATCH", "OPTIONS", "TRACE", "MOVE"] {
        let reply = request(&server, method, "/metadata?key=k", &[], b"");
        assert_eq!(reply.said(), (405, "Method not allowed"), "{method}");
        assert_eq!(reply.header("allow"), Some("GET, PUT, DELETE"));
    }
    // An answer to HEAD has no body to read; its status line is what counts.
    let mut head = Connection::open(server.address());
    head.send("HEAD", "/metadata?key=k", &[("connection", "close")], b"");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut head.stream, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert_eq!(get(&server, "k").said(), (200, "kept"));
}

#[test]
fn a_node_that_gives_no_owner_keeps_its_server_name_until_it_deletes_it() {
    let server = start();
    let key = "mooncake%2Frpc_meta%2Fnode-a";
    assert_eq!(put(&server, key, r#"{"ip_or_host_name":"10.0.0.9","rpc_port":1}"#).said(), (200, "metadata updated"));
    assert_eq!(put(&server, key, r#"{"ip_or_host_name":"10.0.0.9","rpc_port":1}"#).said(), (200, "metadata unchanged"));
    let refused = put(&server, key, r#"{"ip_or_host_name":"10.0.0.8","rpc_port":1}"#);
    assert_eq!(
        refused.said(),
        (
            409,
            "this server name is taken by another node (one that gave no owner); \
             give this node another name, or end the other and delete the key"
        )
    );
    assert_eq!(delete(&server, key).status, 200);
    assert_eq!(put(&server, key, r#"{"ip_or_host_name":"10.0.0.8","rpc_port":1}"#).status, 200);
}

#[test]
fn one_connection_serves_many_requests() {
    let server = start();
    let mut connection = Connection::open(server.address());
    for round in 0..100 {
        let value = format!("{{\"round\":{round}}}");
        assert_eq!(connection.request("PUT", "/metadata?key=k", &[], value.as_bytes()).status, 200);
        assert_eq!(connection.request("GET", "/metadata?key=k", &[], b"").said(), (200, &*value));
    }
    // Several in one packet, as a pipelining client sends them.
    for key in ["k", "missing", "k"] {
        connection.send("GET", &format!("/metadata?key={key}"), &[], b"");
    }
    assert_eq!([(); 3].map(|()| connection.receive().status), [200, 404, 200]);
}

#[test]
fn a_body_in_chunks_is_one_value() {
    let server = start();
    let mut connection = Connection::open(server.address());
    let request = b"PUT /metadata?key=k HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n\
        5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    std::io::Write::write_all(&mut connection.stream, request).unwrap();
    assert_eq!(connection.receive().status, 200);
    assert_eq!(get(&server, "k").said(), (200, "hello world"));
}

#[test]
fn the_path_can_be_chosen() {
    let options = nvferry_store::MetadataServerOptions { path: "/cluster-7/meta".into(), ..Default::default() };
    let server = nvferry_store::MetadataServer::start(options).unwrap();
    assert_eq!(server.url(), format!("http://{}/cluster-7/meta", server.address()));
    assert_eq!(request(&server, "PUT", "/cluster-7/meta?key=k", &[], b"v").status, 200);
    assert_eq!(request(&server, "GET", "/cluster-7/meta?key=k", &[], b"").said(), (200, "v"));
    let reply = get(&server, "k");
    let text = "nothing is served at this path; metadata is at /cluster-7/meta?key=<key>";
    assert_eq!(reply.said(), (404, text));
    assert_eq!(reply.header("x-nvferry-version"), None, "a wrong path is told from a miss by this");
}
