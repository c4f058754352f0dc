//! `nvferry segment list|show`: what is published, for people or as JSON.

use crate::cli::{SegmentCommand, ServiceArgs};
use crate::output::{printable, say, size, table};
use crate::status;
use anyhow::{Result, anyhow, bail};
use nvferry_engine::keys::Keys;
use nvferry_engine::metadata::{MetadataError, MetadataSource, MetadataStore};
use nvferry_engine::{Deadline, SegmentDesc};
use std::sync::Arc;
use std::time::Duration;

/// For one question to the metadata service.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many names a complaint about a missing one mentions.
const NAMES_MENTIONED: usize = 8;

pub(crate) fn run(command: &SegmentCommand) -> Result<()> {
    match command {
        SegmentCommand::List { service, json } => Service::open(service)?.list(*json),
        SegmentCommand::Show { name, service, json, no_status } => {
            Service::open(service)?.show(name, *json, !no_status)
        }
    }
}

struct Service {
    store: Arc<dyn MetadataStore>,
    keys: Keys,
}

/// A published segment, as far as it could be read.
struct Published {
    name: String,
    text: String,
    desc: Result<SegmentDesc, String>,
}

impl Service {
    fn open(args: &ServiceArgs) -> Result<Self> {
        let store = MetadataSource::from(args.metadata_server.as_str()).open()?;
        Ok(Self { store, keys: Keys::new(args.cluster_id.as_deref()) })
    }

    fn list(&self, json: bool) -> Result<()> {
        let mut segments = Vec::new();
        for name in self.names()? {
            // One that is gone meanwhile is none.
            segments.extend(self.get(&name)?);
        }
        if json {
            return say(&as_json(&segments)?);
        }
        if segments.is_empty() {
            return say(&format!("no segments at {}", self.store.location()));
        }
        let mut rows = vec![["SEGMENT", "FILES", "SIZE", "PROTOCOL", "ADDRESS", "PUBLISHED"].map(str::to_owned)];
        for Published { name, desc, .. } in &segments {
            let name = printable(name);
            rows.push(match desc {
                Ok(desc) => [
                    name,
                    desc.file_buffers.len().to_string(),
                    size(total_bytes(desc)),
                    printable(&desc.protocol),
                    address(desc),
                    printable(&desc.timestamp),
                ],
                Err(why) => [name, "?".into(), "?".into(), "?".into(), "?".into(), printable(why)],
            });
        }
        say(&table(&rows))
    }

    fn show(&self, name: &str, json: bool, ask: bool) -> Result<()> {
        let Some(Published { text, desc, .. }) = self.get(name)? else { return Err(self.missing(name)) };
        if json {
            return say(&text);
        }
        let desc = desc.map_err(|why| {
            anyhow!("segment {name}: key {} at {} {why}", self.keys.segment(name), self.store.location())
        })?;
        let mut rows = vec![
            ["segment".into(), printable(name)],
            ["protocol".into(), printable(&desc.protocol)],
            ["published".into(), printable(&desc.timestamp)],
        ];
        if let Some(target) = target(&desc) {
            rows.push(["target".into(), target]);
        }
        rows.push(["files".into(), format!("{}, {}", desc.file_buffers.len(), size(total_bytes(&desc)))]);
        say(&table(&rows))?;
        if desc.file_buffers.is_empty() {
            return Ok(());
        }
        let mut rows = vec![["ID", "SIZE", "BYTES", "ALIGN", "PATH"].map(str::to_owned)];
        rows.extend(desc.file_buffers.iter().map(|file| {
            let (id, align) = (file.id.to_string(), file.align.to_string());
            [id, size(file.size), file.size.to_string(), align, printable(&file.path)]
        }));
        say(&format!("\n{}", table(&rows)))?;
        match status_url(&desc) {
            Some(url) if ask => say(&format!("\n{}", status::of_segment(&url, &desc))),
            _ => Ok(()),
        }
    }

    fn get(&self, name: &str) -> Result<Option<Published>> {
        let found = self.store.get(&self.keys.segment(name), Deadline::after(PATIENCE))?;
        Ok(found.map(|found| {
            let desc = SegmentDesc::from_json(&found.text);
            Published { name: name.to_owned(), text: found.text, desc }
        }))
    }

    fn names(&self) -> Result<Vec<String>> {
        let keys = match self.store.list(self.keys.prefix(), Deadline::after(PATIENCE)) {
            Ok(keys) => keys,
            Err(MetadataError::Refused { location, status: status @ (400 | 404 | 405), answer, .. }) => bail!(
                "the metadata service {location} does not list its keys (it answered {status}: {answer}): is the path right? \
                 The original's service cannot list, `nvferry metadata` can; `nvferry segment show NAME` works with both"
            ),
            Err(error) => return Err(error.into()),
        };
        let mut names: Vec<String> =
            keys.iter().filter_map(|key| self.keys.segment_name(key)).map(str::to_owned).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Says that there is no such segment, and what might be meant instead.
    fn missing(&self, name: &str) -> anyhow::Error {
        let location = self.store.location();
        let hint = match self.store.list(self.keys.prefix(), Deadline::after(PATIENCE)) {
            Ok(keys) => {
                let names: Vec<String> =
                    keys.iter().filter_map(|key| self.keys.segment_name(key)).map(printable).collect();
                match names.len() {
                    0 => "it has none at all".to_owned(),
                    count if count <= NAMES_MENTIONED => format!("it has {}", names.join(", ")),
                    count => format!("it has {count} others; `nvferry segment list` shows them"),
                }
            }
            // What the original's service says of any key that is not there; anything else is about the path.
            Err(MetadataError::Refused { status: 404, answer, .. }) if answer != "metadata not found" => {
                format!("and that may not be one, for it says: {answer}")
            }
            Err(_) => "is its target running, and does it use the same metadata service?".to_owned(),
        };
        anyhow!("segment {}: the metadata service {location} has no such segment; {hint}", printable(name))
    }
}

/// The segments as JSON: each description as it was published, or as text where it is none.
fn as_json(segments: &[Published]) -> Result<String> {
    let values: Vec<serde_json::Value> = segments
        .iter()
        .map(|segment| {
            let text = segment.text.as_str();
            let published: serde_json::Value = serde_json::from_str(text).unwrap_or_else(|_| text.into());
            serde_json::json!({"name": segment.name, "segment": published})
        })
        .collect();
    Ok(serde_json::to_string_pretty(&values)?)
}

fn total_bytes(desc: &SegmentDesc) -> u64 {
    desc.file_buffers.iter().fold(0, |sum, file| sum.saturating_add(file.size))
}

/// The transport id, as `key=value` words.
fn target(desc: &SegmentDesc) -> Option<String> {
    let trid = desc.extra.get(&trid_field(desc))?.as_object()?;
    let words: Vec<String> = trid
        .iter()
        .filter_map(|(key, value)| Some(format!("{}={}", printable(key), printable(value.as_str()?))))
        .collect();
    Some(words.join(" "))
}

/// Where its target tells what it does now.
fn status_url(desc: &SegmentDesc) -> Option<String> {
    Some(desc.extra.get(&trid_field(desc))?.get("status_url")?.as_str()?.to_owned())
}

/// The subsystem that it is part of.
pub(crate) fn subnqn(desc: &SegmentDesc) -> Option<&str> {
    desc.extra.get(&trid_field(desc))?.get("subnqn")?.as_str()
}

/// Where its target listens, in short.
pub(crate) fn address(desc: &SegmentDesc) -> String {
    let part = |name| desc.extra.get(&trid_field(desc))?.get(name)?.as_str().map(printable);
    match (part("traddr"), part("trsvcid")) {
        (Some(address), Some(port)) if address.contains(':') => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
        _ => "-".into(),
    }
}

fn trid_field(desc: &SegmentDesc) -> String {
    format!("{}_trid", desc.protocol)
}
