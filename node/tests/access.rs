//! A metadata service with a token, and with TLS: all roles end to end, and where secrets must not stand.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;
use common::*;
use nix::sys::signal::Signal;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

const TOKEN: &str = "0123456789-right-token";
const WRONG: &str = "0123456789-wrong-token";

fn secret_file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn data_file(dir: &Path) -> String {
    let path = dir.join("a.seg");
    File::create(&path).unwrap().set_len(8192).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Says everything, into a file: a pipe that nobody reads would fill up.
fn tracing<'a>(command: &'a mut Command, log: &Path) -> &'a mut Command {
    command
        .env("NVFERRY_LOG", "trace")
        .stderr(Stdio::from(File::options().append(true).create(true).open(log).unwrap()))
}

/// What `ps` shows of a process.
fn shown_by_ps(role: &Role) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{}/cmdline", role.child.id())).unwrap()).into_owned()
}

fn list(url: &str) -> Command {
    nvferry(&["segment", "list", "--metadata-server", url])
}

fn target(url: &str, file: &str) -> Command {
    nvferry(&["target", "--metadata-server", url, "--server-name", "node-a:8081", "--trsvcid", "0", "--file", file])
}

/// All roles at a service that is started with `args`; `options` is what clients add to its address.
fn all_roles_with_a_token(args: &[&str], options: &str) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let token_file = secret_file(dir.path(), "token", &format!("{TOKEN}\n"));
    let args = [&["metadata", "--listen", "127.0.0.1:0", "--token-file", &token_file], args].concat();
    let service = Role::start(tracing(&mut nvferry(&args), &log));
    let url = format!("{}?{options}", service.word("http"));
    let file = data_file(dir.path());

    let wrong_file = secret_file(dir.path(), "wrong", WRONG);
    for command in [list(&url), target(&url, &file)] {
        let mut command = command;
        for (token, why) in [(None, "wants its token"), (Some(&wrong_file), "not the token of this service")] {
            if let Some(token) = token {
                command.env("NVFERRY_METADATA_TOKEN_FILE", token);
            }
            let (status, stdout, stderr) = ended(&mut command);
            assert_eq!((status, &*stdout), (1, ""), "{stderr}");
            assert!(stderr.contains(why) && stderr.contains("NVFERRY_METADATA_TOKEN"), "{stderr}");
            assert!(!stderr.contains(WRONG), "{stderr}");
        }
    }

    let mut target = target(&url, &file);
    let target = Role::start(tracing(target.env("NVFERRY_METADATA_TOKEN", TOKEN), &log));
    assert!(target.ready.ends_with(&format!("published at {url}")), "{}", target.ready);
    for role in [&service, &target] {
        assert!(!shown_by_ps(role).contains(TOKEN));
    }
    let (status, stdout, stderr) = ended(&mut list(&format!("{url}&token_file={token_file}")));
    assert_eq!((status, &*stderr), (0, ""));
    assert!(stdout.contains("node-a:8081"), "{stdout}");
    let (status, _, stderr) = ended(list(&url).env("NVFERRY_METADATA_TOKEN", WRONG).env("NVFERRY_LOG", "trace"));
    assert_eq!(status, 1);
    assert!(!stderr.contains(WRONG), "{stderr}");

    let mut status = tracing(&mut list(&url), &log).env("NVFERRY_METADATA_TOKEN", TOKEN).spawn().unwrap();
    assert!(status.wait().unwrap().success());
    let mut target = target;
    target.signal(Signal::SIGTERM);
    assert!(target.child.wait().unwrap().success());
    // It could withdraw what it had published.
    let (_, stdout, _) = ended(list(&url).env("NVFERRY_METADATA_TOKEN", TOKEN));
    assert!(stdout.starts_with("no segments"), "{stdout}");
    let mut service = service;
    service.signal(Signal::SIGTERM);
    assert!(service.child.wait().unwrap().success());

    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("TRACE") || said.contains("DEBUG"), "nothing was traced: {said}");
    assert!(!said.contains(TOKEN), "{said}");
}

#[test]
fn p13_all_roles_with_a_token() {
    all_roles_with_a_token(&[], "");
}

#[cfg(feature = "tls")]
#[test]
fn p13_all_roles_with_a_token_and_tls() {
    let dir = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let certificate = secret_file(dir.path(), "server.pem", &own.cert.pem());
    let key = secret_file(dir.path(), "server.key", &own.signing_key.serialize_pem());
    all_roles_with_a_token(&["--tls-cert", &certificate, "--tls-key", &key], &format!("ca={certificate}"));
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_build_without_tls_says_how_to_get_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = secret_file(dir.path(), "pem", "");
    let args = ["metadata", "--listen", "127.0.0.1:0", "--tls-cert", &file, "--tls-key", &file];
    for (status, _, stderr) in [run(&args), ended(&mut list("https://127.0.0.1:1/metadata"))] {
        assert_eq!(status, 1);
        assert!(stderr.contains("--features tls"), "{stderr}");
    }
}

#[test]
fn a_token_that_protects_nothing_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let serve = || nvferry(&["metadata", "--listen", "127.0.0.1:0"]);
    let with_file = |file: &str| {
        let mut command = serve();
        command.args(["--token-file", file]);
        command
    };
    let open = secret_file(dir.path(), "open", TOKEN);
    std::fs::set_permissions(&open, Permissions::from_mode(0o604)).unwrap();
    let with_variable = |name: &str, value: &str| {
        let mut command = serve();
        command.env(name, value);
        command
    };
    for (mut command, why) in [
        (with_file(&open), "chmod 600"),
        (with_file(&secret_file(dir.path(), "empty", "\n")), "one line"),
        (with_file(&secret_file(dir.path(), "two", &format!("{TOKEN}\n{TOKEN}\n"))), "one line"),
        (with_file(&secret_file(dir.path(), "short", "secret-1")), "16 to 1024"),
        (with_file("/does/not/exist"), "/does/not/exist"),
        (with_variable("NVFERRY_METADATA_TOKEN", ""), "16 to 1024"),
        (with_variable("NVFERRY_METADATA_TOKEN", "secret-1"), "16 to 1024"),
        (with_variable("NVFERRY_METADATA_TOKEN_FILE", &open), "chmod 600"),
    ] {
        let (status, stdout, stderr) = ended(&mut command);
        assert_eq!((status, &*stdout), (1, ""), "{why}: {stderr}");
        assert!(stderr.contains(why), "{why}: {stderr}");
        assert!(!stderr.contains(TOKEN) && !stderr.contains("secret-1"), "{stderr}");
    }
    // Clients do not bear such a one, either.
    let in_address = list(&format!("http://127.0.0.1:1/metadata?token_file={open}"));
    let mut in_environment = list("http://127.0.0.1:1/metadata");
    in_environment.env("NVFERRY_METADATA_TOKEN_FILE", &open);
    for mut client in [in_address, in_environment] {
        let (status, _, stderr) = ended(&mut client);
        assert!(status == 1 && stderr.contains("chmod 600") && !stderr.contains(TOKEN), "{stderr}");
    }
    // The flag goes before the environment.
    let right = secret_file(dir.path(), "right", TOKEN);
    let service = Role::start(with_file(&right).env("NVFERRY_METADATA_TOKEN", WRONG));
    let url = service.word("http://");
    assert_eq!(ended(list(&url).env("NVFERRY_METADATA_TOKEN", TOKEN)).0, 0);
}

#[test]
fn a_token_on_the_open_network_is_warned_of_and_a_password_in_an_address_refused() {
    // This address leads to this machine, but is not one that stays there by its name.
    let (status, _, stderr) =
        ended(list("http://0.0.0.0:1/metadata").env("NVFERRY_METADATA_TOKEN", TOKEN).env("NVFERRY_LOG", "warn"));
    assert_eq!(status, 1);
    assert!(stderr.contains("crosses the network") && !stderr.contains(TOKEN), "{stderr}");
    let (_, _, stderr) =
        ended(list("http://127.0.0.1:1/metadata").env("NVFERRY_METADATA_TOKEN", TOKEN).env("NVFERRY_LOG", "warn"));
    assert!(!stderr.contains("crosses the network"), "{stderr}");
    let (status, _, stderr) = ended(&mut list(&format!("http://me:{TOKEN}@127.0.0.1:1/metadata")));
    assert_eq!(status, 1);
    assert!(stderr.contains("NVFERRY_METADATA_TOKEN") && !stderr.contains(TOKEN), "{stderr}");
}
