//! `nvferry target plan` and `nvferry secret`, which need neither root nor a service.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;
use common::*;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const HOST: &str = "nqn.2026-01.org.example:host1";

/// An empty nvmet, as a directory.
fn nvmet(dir: &Path) {
    for below in ["subsystems", "ports", "hosts"] {
        std::fs::create_dir_all(dir.join("nvmet").join(below)).unwrap();
    }
}

fn plan(dir: &Path, more: &[&str]) -> (i32, String, String) {
    let data = dir.join("data");
    File::create(&data).unwrap().set_len(1 << 20).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (root, records, data) = (text(dir), text(&dir.join("records")), text(&data));
    let fixed = ["target", "plan", "--server-name", "node-a", "--configfs-root", &root, "--record-dir", &records];
    run(&[&fixed[..], &["--file", &data], more].concat())
}

#[test]
fn a_plan_lists_what_would_be_made_and_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    nvmet(dir.path());
    let (status, out, err) = plan(dir.path(), &["--direct", "off"]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    let data = dir.path().join("data");
    for needle in ["subsystems/nqn.2016-06.io.mc:node-a", "namespaces/1", data.to_str().unwrap(), "4420", "buffered_io"]
    {
        assert!(out.contains(needle), "{needle} is missing in: {out}");
    }
    assert_eq!(std::fs::read_dir(dir.path().join("nvmet/subsystems")).unwrap().count(), 0);
    assert!(!dir.path().join("records").exists());
}

#[test]
fn a_plan_has_what_is_chosen_about_the_port() {
    let dir = tempfile::tempdir().unwrap();
    nvmet(dir.path());
    let (status, out, err) = plan(dir.path(), &["--inline-data-bytes", "8192", "--max-queue-entries", "64"]);
    assert_eq!(status, 0, "{err}");
    for (attribute, value) in [("param_inline_data_size", "8192"), ("param_max_queue_size", "64")] {
        assert!(out.lines().any(|line| line.contains(attribute) && line.contains(value)), "{attribute}: {out}");
    }
    let data = dir.path().join("data");
    let args =
        ["target", "--server-name", "a", "--metadata-server", "memory:a", "--inline-data-bytes", "8192", "--file"];
    let (status, _, err) = run(&[&args[..], &[data.to_str().unwrap()]].concat());
    assert_eq!(status, 1);
    assert!(err.contains("target_driver=nvmet"), "{err}");
}

#[test]
fn a_plan_in_json_has_each_step() {
    let dir = tempfile::tempdir().unwrap();
    nvmet(dir.path());
    let (status, out, err) = plan(dir.path(), &["--json"]);
    assert_eq!(status, 0, "{err}");
    let plan: serde_json::Value = serde_json::from_str(&out).unwrap();
    let steps = plan["steps"].as_array().unwrap();
    assert!(steps.len() > 5, "{out}");
    assert!(steps.iter().all(|step| step["do"].is_string() && step["path"].is_string()), "{out}");
    assert_eq!(plan["owner_pid"], serde_json::Value::Null);
}

#[test]
fn p13_a_plan_names_the_allowed_hosts_and_not_their_secrets() {
    let dir = tempfile::tempdir().unwrap();
    nvmet(dir.path());
    let (status, secret, _) = run(&["secret"]);
    assert_eq!(status, 0);
    let secret = secret.trim();
    let hosts = dir.path().join("hosts");
    std::fs::write(&hosts, format!("{HOST} {secret}\n")).unwrap();
    std::fs::set_permissions(&hosts, PermissionsExt::from_mode(0o600)).unwrap();
    let (status, out, err) = plan(dir.path(), &["--allowed-hosts", hosts.to_str().unwrap()]);
    assert_eq!(status, 0, "{err}");
    assert!(out.contains(&format!("hosts/{HOST}")), "{out}");
    assert!(!out.contains(secret) && !err.contains(secret), "{out}{err}");
}

#[test]
fn what_serving_refuses_planning_refuses_too() {
    let dir = tempfile::tempdir().unwrap();
    nvmet(dir.path());
    for (flags, needle) in
        [(["--traddr", "0.0.0.0"], "0.0.0.0"), (["--direct", "perhaps"], "perhaps"), (["--trtype", "x"], "trtype=x")]
    {
        let (status, out, err) = plan(dir.path(), &flags);
        assert_eq!((status, out.as_str()), (1, ""), "{flags:?}");
        assert!(err.contains(needle), "{err}");
    }
}

#[test]
fn a_secret_is_of_its_hashs_length_and_its_file_is_ones_own() {
    for (hash, code, bytes) in [("none", "00", 32), ("sha256", "01", 32), ("sha384", "02", 48), ("sha512", "03", 64)] {
        let (status, out, err) = run(&["secret", "--hash", hash]);
        assert_eq!((status, err.as_str()), (0, ""));
        let text = out.trim().strip_prefix(&format!("DHHC-1:{code}:")).and_then(|rest| rest.strip_suffix(':')).unwrap();
        // Base64 of the secret and four bytes of checksum.
        assert_eq!(text.len(), (bytes + 4_usize).div_ceil(3) * 4, "{out}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    let args = ["secret", "--out", path.to_str().unwrap()];
    assert_eq!(run(&args), (0, String::new(), String::new()));
    let first = std::fs::read_to_string(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (status, _, err) = run(&args);
    assert_eq!(status, 1);
    assert!(err.contains("exists") && err.contains("choose another") && !err.contains("DHHC"), "{err}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), first, "nothing was lost");
}
