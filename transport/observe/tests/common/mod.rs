//! What the tests share: engines that move bytes, and a strict reader of the OpenMetrics text format.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Long enough for anything that works.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A scrape: every series with its value, and every family with its type.
#[derive(Debug, Default, Clone)]
pub struct Scrape {
    pub series: BTreeMap<(String, BTreeMap<String, String>), f64>,
    pub types: BTreeMap<String, String>,
}

impl Scrape {
    /// The one series of this name with at least these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found: Vec<_> = self.matching(name, labels).collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        found[0]
    }

    /// All series of this name with at least these labels, added up.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).sum()
    }

    fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = f64> + 'a {
        let has = |own: &BTreeMap<String, String>| {
            labels.iter().all(|(key, value)| own.get(*key).is_some_and(|own| own == value))
        };
        self.series.iter().filter(move |((own, labels), _)| own == name && has(labels)).map(|(_, value)| *value)
    }

    /// Names of the families, as series begin.
    pub fn names(&self) -> BTreeSet<String> {
        let total = |name: &String| if self.types[name] == "counter" { format!("{name}_total") } else { name.clone() };
        self.types.keys().map(total).collect()
    }

    /// Fails where what only grows has fallen since.
    pub fn must_not_fall(&self, before: &Self) {
        for (series, value) in &before.series {
            let grows = ["_total", "_bucket", "_count", "_sum"].iter().any(|end| series.0.ends_with(end));
            if grows && let Some(now) = self.series.get(series) {
                assert!(now >= value, "{series:?} fell from {value} to {now}");
            }
        }
    }
}

/// Reads the text format, and fails on whatever the format does not allow.
pub fn parse(text: &str) -> Scrape {
    let mut scrape = Scrape::default();
    let mut family = None::<String>;
    let mut units = BTreeMap::new();
    let body = text.strip_suffix("# EOF\n").expect("it ends with EOF");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let (what, rest) = rest.split_once(' ').unwrap();
            let (name, rest) = rest.split_once(' ').unwrap();
            check_name(name);
            match what {
                "HELP" => family = Some(name.to_owned()),
                "TYPE" => {
                    assert_eq!(family.as_deref(), Some(name), "type without help");
                    assert!(["counter", "gauge", "histogram"].contains(&rest), "{line}");
                    let before = scrape.types.insert(name.to_owned(), rest.to_owned());
                    assert!(before.is_none(), "{name} is there twice");
                }
                "UNIT" => {
                    assert!(name.ends_with(&format!("_{rest}")), "{line}");
                    units.insert(name.to_owned(), rest.to_owned());
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let family = family.as_ref().expect("a family before its series");
        let (name, labels, value) = sample(line);
        let suffixes: &[&str] = match scrape.types[family].as_str() {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_count", "_sum"],
            _ => &[""],
        };
        assert!(suffixes.iter().any(|suffix| name == format!("{family}{suffix}")), "{name} in {family}");
        let before = scrape.series.insert((name, labels), value);
        assert!(before.is_none(), "twice: {line}");
    }
    for (name, kind) in &scrape.types {
        // Base units, told in the name.
        assert!(!name.contains("milli") && !name.ends_with("_us") && !name.ends_with("_ms"), "{name}");
        assert!(kind != "histogram" || units.get(name).is_some_and(|unit| unit == "seconds"), "{name}");
        if kind == "histogram" {
            check_histogram(&scrape, name);
        }
    }
    scrape
}

fn check_name(name: &str) {
    let ok = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    assert!(name.starts_with("nvferry_") && name.bytes().all(ok), "{name}");
}

/// Buckets grow, and the last one counts all.
fn check_histogram(scrape: &Scrape, name: &str) {
    let mut groups: BTreeMap<_, Vec<(f64, f64)>> = BTreeMap::new();
    for ((series, labels), value) in &scrape.series {
        if *series == format!("{name}_bucket") {
            let mut labels = labels.clone();
            let bound = labels.remove("le").unwrap();
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
            groups.entry(labels).or_default().push((bound, *value));
        }
    }
    assert!(!groups.is_empty(), "{name}");
    for (labels, mut buckets) in groups {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "{name} {labels:?}: {buckets:?}");
        let count = scrape.series[&(format!("{name}_count"), labels)];
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)));
    }
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            rest = rest.strip_prefix(',').unwrap_or(rest);
            let (key, after) = rest.split_once("=\"").unwrap();
            let (value, after) = quoted(after);
            assert!(labels.insert(key.to_owned(), value).is_none(), "{line}");
            rest = after;
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("{line}")))
}

/// A label's value up to its closing quote, and what follows.
fn quoted(text: &str) -> (String, &str) {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    loop {
        match chars.next().expect("a closing quote") {
            (at, '"') => return (value, &text[at + 1..]),
            (_, '\\') => value.push(match chars.next().unwrap().1 {
                'n' => '\n',
                other => other,
            }),
            (_, other) => value.push(other),
        }
    }
}

/// One request: status, content type, body.
pub fn get(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    (status, kind.to_owned(), body.to_owned())
}

/// Waits for something that comes by itself.
pub fn until(what: &str, mut there: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !there() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
