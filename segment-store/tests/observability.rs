//! What an operator sees: health, metrics, and a listing of keys.

mod common;
use common::*;

#[test]
fn health_says_what_is_kept_where() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_on(&dir.path().join("store"));
    put(&server, "k", "v");
    let reply = request(&server, "GET", "/health", &[], b"");
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    let health = reply.json();
    assert_eq!((&health["status"], &health["store"], &health["entries"]), (&"ok".into(), &"file".into(), &1.into()));
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert!(health["uptime_seconds"].is_u64());
    assert_eq!(request(&start(), "GET", "/health", &[], b"").json()["store"], "memory");
    assert_eq!(request(&server, "POST", "/health", &[], b"").header("allow"), Some("GET"));
}

#[test]
fn metrics_count_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_on(&dir.path().join("store"));
    put(&server, "ram/a", "12345");
    put(&server, "ram/b", "1");
    put(&server, "ram/b", "1");
    delete(&server, "ram/b");
    get(&server, "ram/a");
    get(&server, "ram/b");
    get(&server, "");
    let reply = request(&server, "GET", "/metrics", &[], b"");
    assert_eq!(reply.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    for line in [
        r#"nvferry_metadata_requests_total{method="PUT",status="200"} 3"#,
        r#"nvferry_metadata_requests_total{method="DELETE",status="200"} 1"#,
        r#"nvferry_metadata_requests_total{method="GET",status="200"} 1"#,
        r#"nvferry_metadata_requests_total{method="GET",status="404"} 1"#,
        r#"nvferry_metadata_requests_total{method="GET",status="400"} 1"#,
        r#"nvferry_metadata_request_duration_seconds_count{method="PUT"} 3"#,
        "nvferry_metadata_entries 1",
        "nvferry_metadata_entries_bytes 10",
        "nvferry_metadata_owners 0",
        "nvferry_metadata_expired_entries_total 0",
        "nvferry_metadata_connections 1",
        "nvferry_metadata_waiters 0",
        "nvferry_metadata_failed_handshakes_total 0",
        "nvferry_metadata_received_values_bytes_total 7",
        "nvferry_metadata_store_failing 0",
        "nvferry_metadata_commit_duration_seconds_count 3",
        "# EOF",
    ] {
        assert!(reply.text().lines().any(|found| found == line), "no line {line}\n{}", reply.text());
    }
}

#[test]
fn every_metric_is_in_the_documentation_and_nothing_else_is() {
    let server = start();
    get(&server, "a");
    let text = request(&server, "GET", "/metrics", &[], b"").text().to_owned();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let exported: std::collections::BTreeSet<_> =
        types.map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() }).collect();
    let documentation = include_str!("../../docs/metadata.md");
    let rows = documentation.lines().filter(|line| line.starts_with("| `nvferry_metadata_"));
    let names = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`')).filter(|it| it.starts_with("nvferry_"));
    let documented: std::collections::BTreeSet<_> =
        names.map(|name| name.split('{').next().unwrap().to_owned()).collect();
    assert_eq!(exported, documented);
}

#[test]
fn keys_are_listed_by_prefix_and_in_pages() {
    let server = start();
    put_as(&server, "mooncake/ram/b", "12", "owner-b", "60000");
    let version = put(&server, "mooncake/ram/a", "1").version();
    put(&server, "mooncake/rpc_meta/a", "1");
    put(&server, "zebra", "1");
    let list = |query: &str| request(&server, "GET", &format!("/metadata?{query}"), &[], b"");
    let reply = list("prefix=mooncake%2Fram%2F");
    assert_eq!(
        reply.json(),
        serde_json::json!({
            "keys": [
                {"key": "mooncake/ram/a", "version": version, "size_bytes": 1, "owner": null},
                {"key": "mooncake/ram/b", "version": 1, "size_bytes": 2, "owner": "owner-b"},
            ],
            "next_after": null,
        })
    );
    assert_eq!(reply.version(), 4, "a listing carries the version of the whole");
    assert_eq!(list("prefix=none").json(), serde_json::json!({"keys": [], "next_after": null}));

    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = list(&format!("prefix=&limit=1{after}")).json();
        seen.extend(page["keys"].as_array().unwrap().iter().map(|key| key["key"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_after"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(seen, ["mooncake/ram/a", "mooncake/ram/b", "mooncake/rpc_meta/a", "zebra"]);
    assert_eq!(list("prefix=m&key=zebra").said(), (200, "1"), "a key is a key");
    assert_eq!(list("prefix=m&limit=x").status, 400);
}

#[test]
fn a_page_is_bounded_whatever_is_asked_for() {
    let limits = nvferry_store::metadata::Limits { page_keys: 2, ..Default::default() };
    let server = start_with(limits);
    ["a", "b", "c"].iter().for_each(|key| drop(put(&server, key, "1")));
    let page = request(&server, "GET", "/metadata?prefix=&limit=1000000", &[], b"").json();
    assert_eq!((page["keys"].as_array().unwrap().len(), &page["next_after"]), (2, &"b".into()));
}
