//! The HTTP metadata client against a server that answers from a script: well, badly, late, or not at all.
#![allow(clippy::unwrap_used)] // Failing is what tests do.

use nvferry_engine::metadata::http::HttpStore;
use nvferry_engine::metadata::{MetadataError, OnChange, Ownership};
use nvferry_engine::{Deadline, ErrorKind, MetadataStore, TransferEngine};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What the server does with one request.
enum Answer {
    /// Status, headers, body.
    Say(u16, &'static str, Vec<u8>),
    /// The connection is closed without an answer.
    HangUp,
    /// Nothing comes, and the connection stays.
    Nothing,
    /// The answer begins, and never ends.
    Half,
}

fn say(status: u16, body: &str) -> Answer {
    Answer::Say(status, "", body.as_bytes().to_vec())
}

/// What the server received: the request line, the headers, the body.
struct Seen {
    line: String,
    headers: String,
    body: String,
}

/// Serves each answer once, in order, and then hangs up on everybody. Connections are kept alive.
fn serve(answers: Vec<Answer>) -> (String, Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/metadata", listener.local_addr().unwrap());
    let (sender, seen) = channel();
    std::thread::spawn(move || {
        let mut answers = answers.into_iter();
        let mut open = Vec::new();
        'connections: for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while let Some(request) = receive(&mut reader) {
                let answer = answers.next().unwrap_or(Answer::HangUp);
                // The test may have seen enough.
                let _ = sender.send(request);
                match answer {
                    Answer::Say(status, headers, body) => reply(&stream, status, headers, &body),
                    Answer::HangUp => continue 'connections,
                    Answer::Nothing => {
                        open.push(stream);
                        continue 'connections;
                    }
                    Answer::Half => {
                        (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").unwrap();
                        open.push(stream);
                        continue 'connections;
                    }
                }
            }
        }
    });
    (url, seen)
}

fn receive(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut seen = Seen { line: String::new(), headers: String::new(), body: String::new() };
    if reader.read_line(&mut seen.line).ok()? == 0 {
        return None;
    }
    let mut len = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line == "\r\n" {
            break;
        }
        let line = line.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            len = value.trim().parse().unwrap();
        }
        seen.headers.push_str(&line);
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    seen.body = String::from_utf8(body).unwrap();
    Some(seen)
}

fn reply(mut stream: &TcpStream, status: u16, headers: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    // A client that has given up is a client that has given up.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

fn at_once() -> Deadline {
    Deadline::after(Duration::from_millis(50))
}

#[test]
fn the_three_calls_are_the_originals() {
    let version = "X-Nvferry-Version: 17\r\n";
    let (url, seen) = serve(vec![
        Answer::Say(200, version, b"{\"a\":1}".to_vec()),
        say(404, "metadata not found"),
        say(200, "metadata updated"),
        say(200, "metadata deleted"),
        say(404, "metadata not found"),
    ]);
    let store = HttpStore::new(&url).unwrap();
    let owner = Ownership { id: "me#1".into(), ttl: Duration::from_millis(1500) };
    let key = "mooncake/ram/10.0.0.7:8081";

    let got = store.get(key, soon()).unwrap().unwrap();
    assert_eq!((got.text.as_str(), got.version), ("{\"a\":1}", Some(17)));
    let request = seen.recv().unwrap();
    assert_eq!(request.line, "GET /metadata?key=mooncake%2Fram%2F10.0.0.7%3A8081 HTTP/1.1\r\n");

    assert_eq!(store.get(key, soon()).unwrap(), None);
    seen.recv().unwrap();
    store.put(key, "{\"b\":2}", Some(&owner), soon()).unwrap();
    let request = seen.recv().unwrap();
    assert_eq!(request.line, "PUT /metadata?key=mooncake%2Fram%2F10.0.0.7%3A8081 HTTP/1.1\r\n");
    assert_eq!(request.body, "{\"b\":2}");
    let has = |request: &Seen, header: &str| assert!(request.headers.contains(header), "{}", request.headers);
    has(&request, "x-nvferry-owner: me#1\r\n");
    has(&request, "x-nvferry-ttl-ms: 1500\r\n");
    has(&request, "content-type: application/json\r\n");

    assert!(store.remove(key, Some(&owner), soon()).unwrap());
    let request = seen.recv().unwrap();
    assert!(request.line.starts_with("DELETE /metadata?key="));
    has(&request, "x-nvferry-owner: me#1\r\n");
    assert!(!request.headers.contains("x-nvferry-ttl-ms"));
    assert!(!store.remove(key, None, soon()).unwrap());
    assert!(!seen.recv().unwrap().headers.contains("x-nvferry-owner"));
}

#[test]
fn refusals_say_who_refused_what_and_why() {
    let (url, _seen) = serve(vec![
        say(400, "metadata key is required"),
        say(405, "Method not allowed"),
        say(500, "disk \x1b[31mfull"),
        say(409, "this server name is taken by another node"),
        Answer::Say(302, "Location: http://elsewhere/\r\n", vec![]),
    ]);
    let store = HttpStore::new(&url).unwrap();
    let refused = |error: MetadataError, expected: &str| {
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains(&url) && text.contains("PUT of k"), "{text}");
        error
    };
    let put = || store.put("k", "v", None, soon()).unwrap_err();
    refused(put(), "it answered 400: metadata key is required");
    refused(put(), "it answered 405: Method not allowed");
    let error = refused(put(), "it answered 500: disk  [31mfull");
    assert!(error.may_be_done());
    let error = refused(put(), "this server name is taken by another node");
    assert!(matches!(error, MetadataError::Taken { .. }) && !error.may_be_done());
    refused(put(), "it answered 302");
}

#[test]
fn a_server_that_is_down_is_named_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/metadata", listener.local_addr().unwrap());
    drop(listener);
    let error = HttpStore::new(&url).unwrap().get("k", soon()).unwrap_err();
    assert!(matches!(error, MetadataError::Unreachable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&url) && text.contains("GET of k"), "{text}");
    assert!(text.contains("Connection refused") && text.contains("is it running there"), "{text}");
    assert!(!error.may_be_done());

    let engine = TransferEngine::builder().metadata(url.as_str()).server_name("a").build().unwrap();
    assert_eq!(engine.open_segment("b").unwrap_err().kind(), ErrorKind::Metadata);
}

#[test]
fn a_server_that_does_not_answer_is_not_waited_for_beyond_the_deadline() {
    for answer in [Answer::Nothing, Answer::Half] {
        let (url, _seen) = serve(vec![answer]);
        let started = Instant::now();
        let error = HttpStore::new(&url).unwrap().get("k", at_once()).unwrap_err();
        assert!(matches!(error, MetadataError::Late { .. }), "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert!(error.may_be_done());
    }
}

#[test]
fn a_connection_that_breaks_is_tried_again() {
    let (url, seen) = serve(vec![Answer::HangUp, Answer::HangUp, say(200, "here")]);
    let store = HttpStore::new(&url).unwrap();
    assert_eq!(store.get("k", soon()).unwrap().unwrap().text, "here");
    assert_eq!(seen.try_iter().count(), 3);
    // This one hangs up for good.
    let error = store.put("k", "v", None, soon()).unwrap_err();
    assert!(matches!(error, MetadataError::Broken { .. }), "{error:?}");
}

#[test]
fn answers_that_are_no_text_or_too_long_are_refused() {
    let (url, _seen) = serve(vec![
        Answer::Say(200, "", vec![b'a', 0xff, 0xfe]),
        Answer::Say(200, "", vec![b'x'; 9 << 20]),
        say(200, "<html>login</html>"),
    ]);
    let store = HttpStore::new(&url).unwrap();
    let error = store.get("k", soon()).unwrap_err();
    assert!(matches!(error, MetadataError::NotText { .. }), "{error:?}");
    let error = store.get("k", soon()).unwrap_err();
    assert!(matches!(error, MetadataError::TooLarge { .. }), "{error:?}");
    let engine = TransferEngine::builder().metadata(url.as_str()).server_name("a").cluster_id(None).build().unwrap();
    let error = engine.open_segment("b").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MalformedJson);
    let text = error.to_string();
    assert!(text.contains("<html>login</html>") && text.contains(&url) && text.contains("mooncake/ram/b"), "{text}");
}

#[test]
fn a_wrong_path_is_not_taken_for_a_key_that_is_missing() {
    let (url, _seen) = serve(vec![say(404, "nothing is served at this path"), say(404, ""), say(404, "Key Not Found")]);
    let store = HttpStore::new(&url).unwrap();
    let error = store.get("k", soon()).unwrap_err();
    assert!(error.to_string().contains("it answered 404: nothing is served at this path"), "{error}");
    assert_eq!(store.get("k", soon()).unwrap(), None);
    assert_eq!(store.get("k", soon()).unwrap(), None);
}

/// Counts calls, and says so.
fn counter() -> (OnChange, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    let on_change: OnChange = Arc::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    (on_change, count)
}

#[test]
fn a_watch_asks_for_the_next_version_and_ends_when_it_is_dropped() {
    let versioned = |status, version| Answer::Say(status, version, vec![]);
    let (url, seen) = serve(vec![
        versioned(200, "X-Nvferry-Version: 5\r\n"),
        versioned(404, "X-Nvferry-Version: 9\r\n"),
        Answer::Nothing,
    ]);
    let (on_change, count) = counter();
    let watch = HttpStore::new(&url).unwrap().watch("k", Some(4), on_change).unwrap();
    let asked_for = |version: u32| {
        let line = seen.recv_timeout(Duration::from_secs(10)).unwrap().line;
        assert_eq!(line, format!("GET /metadata?key=k&wait_ms=30000&version={version} HTTP/1.1\r\n"));
    };
    asked_for(4);
    asked_for(5);
    // The removal is news, too.
    asked_for(9);
    assert_eq!(count.load(Ordering::SeqCst), 2);
    drop(watch);
}

#[test]
fn a_server_without_versions_is_not_watched() {
    let (on_change, count) = counter();
    let (url, seen) = serve(vec![say(200, "")]);
    let store = HttpStore::new(&url).unwrap();
    assert!(store.watch("k", None, Arc::clone(&on_change)).is_none());
    // One that stops counting is asked no more.
    let _watch = store.watch("k", Some(1), on_change).unwrap();
    seen.recv_timeout(Duration::from_secs(10)).unwrap();
    store.get("other", soon()).unwrap_err();
    assert!(seen.try_iter().all(|request| request.line.contains("key=other")));
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

/// A client with a token, and the file that it came from.
fn with_token(url: &str, token: &str) -> HttpStore {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{token}\n")).unwrap();
    HttpStore::new(&format!("{url}?token_file={}", file.path().display())).unwrap()
}

#[test]
fn the_token_goes_with_every_call_and_every_question_of_a_watch() {
    let version = "X-Nvferry-Version: 1\r\n";
    let answers = [200, 200, 200, 404].map(|status| Answer::Say(status, version, vec![]));
    let (url, seen) = serve(answers.into());
    let store = with_token(&url, "geheim");
    store.get("k", soon()).unwrap();
    store.put("k", "v", None, soon()).unwrap();
    store.remove("k", None, soon()).unwrap();
    let _watch = store.watch("k", Some(0), counter().0).unwrap();
    for _ in 0..4 {
        let seen = seen.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(seen.headers.contains("authorization: bearer geheim\r\n"), "{}: {}", seen.line, seen.headers);
    }
}

#[test]
fn p13_a_redirect_is_refused_and_takes_the_token_nowhere() {
    let (elsewhere, lured) = serve(vec![say(200, "evil")]);
    for status in [301, 302, 303, 307, 308] {
        let headers: &'static str = format!("Location: {elsewhere}?key=k&token=geheim\r\n").leak();
        let (url, seen) = serve(vec![Answer::Say(status, headers, vec![]), Answer::Say(status, headers, vec![])]);
        let store = with_token(&url, "geheim");
        for error in [store.get("k", soon()).unwrap_err(), store.put("k", "v", None, soon()).unwrap_err()] {
            assert!(matches!(error, MetadataError::Refused { status: said, .. } if said == status), "{error:?}");
            assert!(error.to_string().contains(&elsewhere) && error.to_string().contains("not followed"), "{error}");
            assert!(!error.to_string().contains("geheim"), "{error}");
        }
        assert_eq!(seen.try_iter().count(), 2);
    }
    assert!(lured.try_recv().is_err(), "somebody went there");
}

#[test]
fn a_server_that_repeats_the_token_does_not_get_it_into_errors() {
    let (url, _seen) = serve(vec![
        say(401, "not geheim"),
        say(500, "geheim"),
        say(409, "taken by geheim"),
        Answer::Say(200, "", b"\xffgeheim".to_vec()),
        say(200, "geheim is no listing"),
        say(401, &format!("{}geheim", "x".repeat(157))),
    ]);
    let store = with_token(&url, "geheim");
    let errors = [
        store.get("k", soon()).unwrap_err(),
        store.get("k", soon()).unwrap_err(),
        store.put("k", "v", None, soon()).unwrap_err(),
        store.get("k", soon()).unwrap_err(),
        store.list("k", soon()).unwrap_err(),
        store.get("k", soon()).unwrap_err(),
    ];
    for error in errors {
        let shown = format!("{error} {error:?} {store:?} {}", store.location());
        assert!(!shown.contains("geh"), "{shown}");
    }
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_build_without_tls_says_how_to_get_it() {
    let error = HttpStore::new("https://127.0.0.1:1/metadata").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotImplemented);
    assert!(error.to_string().contains("--features tls"), "{error}");
}
