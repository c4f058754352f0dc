//! A server with a token: who is answered, and what the others are told.
#![allow(clippy::unwrap_used)]

mod common;
use common::*;
use nvferry_engine::Deadline;
use nvferry_engine::metadata::http::HttpStore;
use nvferry_engine::metadata::{MetadataError, MetadataStore};
use nvferry_store::metadata::Token;
use nvferry_store::{MetadataServer, MetadataServerOptions};
use std::sync::Arc;
use std::sync::mpsc::channel;

const TOKEN: &str = "right-right-right-right";

fn guarded() -> MetadataServer {
    let token = Some(Token::new(TOKEN).unwrap());
    MetadataServer::start(MetadataServerOptions { token, ..Default::default() }).unwrap()
}

fn client(server: &MetadataServer, token: &str) -> HttpStore {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{token}\n")).unwrap();
    HttpStore::new(&format!("{}?token_file={}", server.url(), file.path().display())).unwrap()
}

#[test]
fn p13_whoever_lacks_the_token_reads_and_changes_nothing() {
    let server = guarded();
    let bearer = |token: &str| format!("Bearer {token}");
    let right = bearer(TOKEN);
    let right = [("Authorization", right.as_str())];
    let ask = |method: &str, target: &str, headers: &[(&str, &str)]| request(&server, method, target, headers, b"v");
    assert_eq!(ask("PUT", "/metadata?key=k", &right).said(), (200, "metadata updated"));
    let calls = [
        ("GET", "/metadata?key=k"),
        ("GET", "/metadata?key=missing"),
        ("GET", "/metadata?key=k&wait_ms=60000"),
        ("GET", "/metadata?prefix="),
        ("PUT", "/metadata?key=k"),
        ("PUT", "/metadata?key=rpc_meta/new"),
        ("DELETE", "/metadata?key=k"),
        ("POST", "/metadata"),
    ];
    for (method, target) in calls {
        let body: &[u8] = if method == "PUT" { b"evil" } else { b"" };
        let none = request(&server, method, target, &[], body);
        let text = "this service wants its token, in the header `Authorization: Bearer <token>`";
        assert_eq!(none.said(), (401, text), "{method} {target}");
        assert_eq!(none.header("www-authenticate"), Some(r#"Bearer realm="nvferry metadata""#));
        assert_eq!(none.header("x-nvferry-version"), None);
        let wrong = [("Authorization", &*bearer("wrong-wrong-wrong-wrong"))];
        let wrong = request(&server, method, target, &wrong, body);
        assert_eq!(wrong.said(), (401, "this is not the token of this service"), "{method} {target}");
        let challenge = r#"Bearer realm="nvferry metadata", error="invalid_token""#;
        assert_eq!(wrong.header("www-authenticate"), Some(challenge));
    }
    assert_eq!(request(&server, "GET", "/metadata?key=k", &right, b"").said(), (200, "v"));
    assert_eq!(request(&server, "GET", "/metadata?key=rpc_meta/new", &right, b"").status, 404);
    assert_eq!(request(&server, "DELETE", "/metadata?key=k", &right, b"").status, 200);
    // Open to everybody, and counted.
    assert_eq!(request(&server, "GET", "/health", &[], b"").status, 200);
    let refused = metric(&server, "nvferry_metadata_requests_total{method=\"OTHER\",status=\"401\"}");
    assert_eq!(refused, calls.len() as f64 * 2.0);
}

#[test]
fn a_large_value_without_the_token_is_refused_and_the_client_hears_why() {
    let server = guarded();
    let reply = request(&server, "PUT", "/metadata?key=k", &[], &vec![b'v'; 4 << 20]);
    assert_eq!(reply.status, 401);
    assert_eq!(metric(&server, "nvferry_metadata_entries "), 0.0);
}

#[test]
fn the_engines_client_with_the_token_does_all_that_it_does_without() {
    let server = guarded();
    let client = client(&server, TOKEN);
    assert_eq!(client.location(), server.url());
    client.put("k", "1", None, Deadline::after(PATIENCE)).unwrap();
    let known = client.get("k", Deadline::after(PATIENCE)).unwrap().unwrap().version;
    assert_eq!(client.list("", Deadline::after(PATIENCE)).unwrap(), ["k"]);
    let (sender, told) = channel();
    let on_change = Arc::new(move || {
        // The test has ended when nobody receives.
        let _ = sender.send(());
    });
    let _watch = client.watch("k", known, on_change).unwrap();
    until("a reader waits", || metric(&server, "nvferry_metadata_waiters") == 1.0);
    client.put("k", "2", None, Deadline::after(PATIENCE)).unwrap();
    told.recv_timeout(PATIENCE).unwrap();
    assert!(client.remove("k", None, Deadline::after(PATIENCE)).unwrap());
}

#[test]
fn the_engines_client_says_what_to_do_about_its_token_and_does_not_show_it() {
    let server = guarded();
    let wrong = client(&server, "wrong-token-of-mine");
    let nobody = HttpStore::new(server.url()).unwrap();
    for (client, why) in [(&wrong, "give its right token in"), (&nobody, "give its token in NVFERRY_METADATA_TOKEN")] {
        let soon = || Deadline::after(PATIENCE);
        let errors = [
            client.get("k", soon()).unwrap_err(),
            client.put("k", "1", None, soon()).unwrap_err(),
            client.remove("k", None, soon()).unwrap_err(),
            client.list("", soon()).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, MetadataError::Refused { status: 401, .. }), "{error:?}");
            assert!(error.to_string().contains(why) && !error.may_be_done(), "{error}");
            assert!(!format!("{error} {error:?} {client:?}").contains("wrong-token"), "{error}");
        }
    }
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_build_without_tls_says_how_to_get_it() {
    let tls = nvferry_store::metadata::TlsFiles { certificate: "/c".into(), key: "/k".into() };
    let error = MetadataServer::start(MetadataServerOptions { tls: Some(tls), ..Default::default() }).unwrap_err();
    assert!(error.to_string().contains("--features tls"), "{error}");
}
