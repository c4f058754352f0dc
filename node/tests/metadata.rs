//! `nvferry metadata` as people and scripts run it.

mod common;
use common::*;
use nix::sys::signal::Signal;
use std::net::TcpListener;

#[test]
fn it_says_where_it_is_serves_and_ends_in_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let service = metadata();
        let url = service.word("http://");
        assert_eq!(service.ready, format!("metadata service at {url} keeps its entries in memory only"));
        assert_eq!(http(&url, "PUT", "?key=k", "{}"), (200, "metadata updated".into()));
        assert_eq!(http(&url, "GET", "?key=k", ""), (200, "{}".into()));
        assert_eq!(service.stop(signal), (0, String::new(), String::new()), "{signal}");
    }
}

#[test]
fn entries_are_kept_in_the_file_that_was_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("entries");
    let store = store.to_str().unwrap();
    let args = ["metadata", "--listen", "127.0.0.1:0", "--path", "/m", "--store", store];
    let service = Role::start(&mut nvferry(&args));
    let url = service.word("http://");
    assert_eq!(service.ready, format!("metadata service at {url} keeps its entries in {store}"));
    assert!(url.ends_with("/m"), "{url}");
    http(&url, "PUT", "?key=k", "kept");
    assert_eq!(service.stop(Signal::SIGTERM).0, 0);
    let service = Role::start(&mut nvferry(&args));
    assert_eq!(http(&service.word("http://"), "GET", "?key=k", ""), (200, "kept".into()));
}

#[test]
fn a_service_on_a_chosen_port_keeps_its_entries_without_being_asked() {
    let home = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("127.0.0.1:{port}");
    let mut command = nvferry(&["metadata"]);
    command.env("HOME", home.path()).env("NVFERRY_METADATA_LISTEN", &listen);
    let service = Role::start(&mut command);
    let file = home.path().join(format!(".local/state/nvferry/metadata-127.0.0.1-{port}.redb"));
    let url = format!("http://{listen}/metadata");
    assert_eq!(service.ready, format!("metadata service at {url} keeps its entries in {}", file.display()));
    http(&url, "PUT", "?key=k", "kept");
    drop(service);
    let service = Role::start(&mut command);
    assert_eq!(http(&url, "GET", "?key=k", ""), (200, "kept".into()));
    drop(service);
    let service = Role::start(command.arg("--no-store"));
    assert_eq!(http(&url, "GET", "?key=k", "").0, 404);
    drop(service);
}

#[test]
fn a_flag_wins_over_the_environment() {
    let mut command = nvferry(&["metadata", "--listen", "127.0.0.1:0", "--path=/flag"]);
    command.env("NVFERRY_METADATA_LISTEN", "nonsense").env("NVFERRY_METADATA_PATH", "/environment");
    assert!(Role::start(&mut command).word("http://").ends_with("/flag"));

    let dir = tempfile::tempdir().unwrap();
    let store = |name: &str| dir.path().join(name).display().to_string();
    let started = |flags: &[&str]| {
        let mut command = nvferry(&[&["metadata", "--listen", "127.0.0.1:0"], flags].concat());
        command.env("NVFERRY_METADATA_STORE", store("environment"));
        Role::start(&mut command).ready.clone()
    };
    assert!(started(&[]).ends_with(&store("environment")));
    assert!(started(&["--store", &store("flag")]).ends_with(&store("flag")));
    assert!(started(&["--no-store"]).ends_with("in memory only"));
}

#[test]
fn what_cannot_be_is_said_in_one_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("letter");
    std::fs::write(&text, "Dear reader, this is no store.").unwrap();
    let text = text.to_str().unwrap();
    let nowhere = dir.path().join("no/such/directory/store");
    let cases: &[(&[&str], &str)] = &[
        (
            &["--listen", &taken],
            &format!("cannot listen on {taken}: the port is in use; choose another, or stop the program that has it"),
        ),
        (&["--listen", "192.0.2.1:80"], "cannot listen on 192.0.2.1:80: this machine does not have this address"),
        (&["--listen", "8080"], "cannot listen on `8080`: "),
        (
            &["--listen", "127.0.0.1:0", "--path", "metadata"],
            "the metadata path `metadata` does not begin with a slash",
        ),
        (&["--listen", "127.0.0.1:0", "--store", text], &format!("the file {text} is not a metadata store")),
        (&["--listen", "127.0.0.1:0", "--store", dir.path().to_str().unwrap()], "cannot be opened: "),
        (&["--listen", "127.0.0.1:0", "--store", nowhere.to_str().unwrap()], "No such file or directory"),
    ];
    for (args, said) in cases {
        let mut command = nvferry(&["metadata"]);
        command.args(*args).env("HOME", dir.path());
        let (status, stdout, stderr) = ended(&mut command);
        assert_eq!((status, &*stdout), (1, ""), "{args:?}: {stderr}");
        assert!(stderr.starts_with("nvferry: ") && stderr.contains(said), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
        assert!(stderr.matches("os error").count() <= 1, "the same twice: {stderr}");
    }
    assert_eq!(std::fs::read_to_string(text).unwrap(), "Dear reader, this is no store.");
    assert!(!dir.path().join("no").exists());
}

#[test]
fn a_store_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("entries");
    let args = ["metadata", "--listen", "127.0.0.1:0", "--store", store.to_str().unwrap()];
    let _service = Role::start(&mut nvferry(&args));
    let (status, _, stderr) = run(&args);
    assert_eq!(status, 1);
    assert!(stderr.contains("is in use by another process"), "{stderr}");
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    for args in [&["metadata", "--lisen", "x"][..], &["meta"], &[], &["metadata", "--store", "x", "--no-store"]] {
        let (status, stdout, stderr) = run(args);
        assert_eq!((status, &*stdout), (2, ""), "{args:?}");
        assert!(!stderr.is_empty());
    }
    let (status, stdout, _) = run(&["--help"]);
    assert_eq!(status, 0);
    assert!(stdout.contains("Exit status: 0 done; 1 it failed"), "{stdout}");
}

#[test]
fn without_a_home_it_asks_for_a_place() {
    let mut command = nvferry(&["metadata", "--listen", "127.0.0.1:1"]);
    let (status, _, stderr) = ended(command.env_remove("HOME"));
    assert_eq!(status, 1);
    assert!(stderr.contains("there is no place to keep the entries; give --store FILE, or --no-store"), "{stderr}");
}

#[test]
fn sigkill_during_puts_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("entries");
    let args = ["metadata", "--listen", "127.0.0.1:0", "--store", store.to_str().unwrap()];
    let mut acknowledged: Vec<(String, String)> = Vec::new();
    for round in 0..5 {
        let mut service = Role::start(&mut nvferry(&args));
        let url = service.word("http://");
        let (sender, done) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let (url, sender) = (&url, sender.clone());
                scope.spawn(move || {
                    for count in 0.. {
                        let entry = (format!("ram/{round}-{writer}-{count}"), format!("{{\"count\":{count}}}"));
                        match try_http(url, "PUT", &format!("?key={}", entry.0), &entry.1) {
                            Ok((200, _)) => sender.send(entry).unwrap(),
                            _ => break,
                        }
                    }
                });
            }
            drop(sender);
            let seen = acknowledged.len();
            for entry in done {
                acknowledged.push(entry);
                if acknowledged.len() == seen + 40 {
                    service.signal(Signal::SIGKILL);
                }
            }
        });
        assert_eq!(service.end().0, 128 + Signal::SIGKILL as i32);
    }
    assert!(acknowledged.len() >= 200);
    let service = Role::start(&mut nvferry(&args));
    let url = service.word("http://");
    for (key, value) in acknowledged {
        assert_eq!(http(&url, "GET", &format!("?key={key}"), ""), (200, value), "{key}");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let service = metadata();
    // A request whose body never comes holds the orderly end up.
    let url = service.word("http://");
    let mut slow = std::net::TcpStream::connect(authority(&url)).unwrap();
    let request = b"PUT /metadata?key=k HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n";
    std::io::Write::write_all(&mut slow, request).unwrap();
    let mut go_on = [0; 25];
    std::io::Read::read_exact(&mut slow, &mut go_on).unwrap();
    service.signal(Signal::SIGTERM);
    // The port is closed as soon as the first signal has been heard.
    while std::net::TcpStream::connect(authority(&url)).is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(service.stop(Signal::SIGINT).0, 128 + Signal::SIGINT as i32);
}
