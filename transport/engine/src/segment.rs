//! What an engine offers, as it is published: the original's JSON, with whatever else stands in it kept.

use crate::ids::FileBufferId;
use crate::metadata::shorten;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One file that a segment offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileBufferDesc {
    /// Names it within the segment.
    pub id: FileBufferId,
    /// Its path on its own node.
    #[serde(default)]
    pub path: String,
    /// Bytes that can be reached.
    pub size: u64,
    /// Bytes that offsets and lengths are best multiples of.
    #[serde(default)]
    pub align: u64,
    /// Names the file itself, whatever its id, in a form that the transport understands: another one under the same id is
    /// another file. `None` where nothing is known of that.
    #[serde(rename = "nguid", default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What one engine offers under its server name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentDesc {
    /// The server name.
    #[serde(default)]
    pub name: String,
    /// The transport that it is for.
    #[serde(default)]
    pub protocol: String,
    /// Unused by file transports; 0.
    #[serde(default)]
    pub tcp_data_port: u32,
    /// When it was written: `YYYY-mm-dd HH:MM:SS.uuuuuu`.
    #[serde(default)]
    pub timestamp: String,
    /// The transports' own fields (such as `nvmeof_generic_trid`), and fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
    /// The files that it offers.
    #[serde(default)]
    pub file_buffers: Vec<FileBufferDesc>,
}

impl FileBufferDesc {
    /// A description without unknown fields. Sizes in bytes.
    pub fn new(id: FileBufferId, path: impl Into<String>, size: u64, align: u64) -> Self {
        Self { id, path: path.into(), size, align, identity: None, extra: Map::new() }
    }

    /// The same, of a file that is known by this.
    #[must_use]
    pub fn with_identity(self, identity: impl Into<String>) -> Self {
        Self { identity: Some(identity.into()), ..self }
    }

    /// Whether this can only be another file than `other`, which has the same id: as far as both say what they are, that
    /// counts, and their paths where one does not.
    #[must_use]
    pub fn is_another_than(&self, other: &Self) -> bool {
        match (&self.identity, &other.identity) {
            (Some(own), Some(others)) => own != others,
            _ => self.path != other.path,
        }
    }
}

impl SegmentDesc {
    /// A description of a segment that offers nothing yet.
    pub fn new(name: impl Into<String>, protocol: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            protocol: protocol.into(),
            tcp_data_port: 0,
            timestamp: String::new(),
            extra: Map::new(),
            file_buffers: Vec::new(),
        }
    }

    /// Reads a description. Fields that it does not know are kept.
    ///
    /// # Errors
    /// What is wrong and what was received instead, as the end of a sentence.
    pub fn from_json(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error: serde_json::Error| {
            // It repeats what it did not expect, however long that is, before it tells where.
            let place = format!(" at line {} column {}", error.line(), error.column());
            let said = error.to_string();
            let (why, place) = said.strip_suffix(&place).map_or((&*said, ""), |why| (why, &*place));
            format!("does not hold a segment's description: {}{place}; it holds '{}'", shorten(why), shorten(text))
        })
    }

    /// The description as it is published.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Maps with text keys, texts and integers always have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The file of this id.
    #[must_use]
    pub fn file(&self, id: FileBufferId) -> Option<&FileBufferDesc> {
        self.file_buffers.iter().find(|file| file.id == id)
    }

    /// Whether it says the same as another, whenever they were written.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.name == other.name
            && self.protocol == other.protocol
            && self.tcp_data_port == other.tcp_data_port
            && self.extra == other.extra
            && self.file_buffers == other.file_buffers
    }

    /// Sets when it was written: now, in UTC.
    pub fn stamp(&mut self) {
        self.timestamp = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S%.6f").to_string();
    }
}

/// What is to be published when `ours` joins what already stands under its name (P11).
///
/// What another transport or program published there stays: its protocol, and every field that is not ours.
pub(crate) fn merge(published: Option<SegmentDesc>, ours: &SegmentDesc) -> SegmentDesc {
    let Some(published) = published else { return ours.clone() };
    let mut merged = ours.clone();
    if !published.protocol.is_empty() {
        merged.protocol = published.protocol;
    }
    merged.tcp_data_port = published.tcp_data_port;
    merged.extra = published.extra;
    for (field, value) in &ours.extra {
        merged.extra.insert(field.clone(), value.clone());
    }
    merged
}

/// Whether it holds anything that is not ours.
pub(crate) fn holds_more_than(published: &SegmentDesc, ours: &SegmentDesc) -> bool {
    let foreign_protocol = !published.protocol.is_empty() && published.protocol != ours.protocol;
    foreign_protocol
        || published.tcp_data_port != ours.tcp_data_port
        || published.extra.keys().any(|field| !ours.extra.contains_key(field))
}

/// What is left when `ours` is taken out; `None` when that is nothing.
pub(crate) fn without(mut published: SegmentDesc, ours: &SegmentDesc) -> Option<SegmentDesc> {
    if !holds_more_than(&published, ours) {
        return None;
    }
    published.file_buffers.clear();
    published.extra.retain(|field, _| !ours.extra.contains_key(field));
    Some(published)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NGUID: &str = "6f1f4c9e-0c5b-8a51-9d35-2f6f0f3b6c11";

    fn ours() -> SegmentDesc {
        let mut desc = SegmentDesc::new("10.0.0.7:8081", "nvmeof_generic");
        desc.timestamp = "2026-01-02 03:04:05.000006".into();
        let trid =
            json!({"trtype": "tcp", "adrfam": "ipv4", "traddr": "10.0.0.7", "trsvcid": "4420", "subnqn": "nqn.x"});
        desc.extra.insert("nvmeof_generic_trid".into(), trid);
        desc.file_buffers
            .push(FileBufferDesc::new(FileBufferId(1), "/data/a.seg", 64 << 30, 4096).with_identity(NGUID));
        desc
    }

    #[test]
    fn the_json_is_the_documented_one() {
        let golden = concat!(
            r#"{"name":"10.0.0.7:8081","protocol":"nvmeof_generic","tcp_data_port":0,"#,
            r#""timestamp":"2026-01-02 03:04:05.000006","#,
            r#""nvmeof_generic_trid":{"trtype":"tcp","adrfam":"ipv4","traddr":"10.0.0.7","trsvcid":"4420","subnqn":"nqn.x"},"#,
            r#""file_buffers":[{"id":1,"path":"/data/a.seg","size":68719476736,"align":4096,"#,
            r#""nguid":"6f1f4c9e-0c5b-8a51-9d35-2f6f0f3b6c11"}]}"#
        );
        assert_eq!(ours().to_json(), golden);
        assert_eq!(SegmentDesc::from_json(golden).unwrap(), ours());
        // As the original writes it, and those before this field was.
        let without = golden.replace(&format!(r#","nguid":"{NGUID}""#), "");
        let read = SegmentDesc::from_json(&without).unwrap();
        assert_eq!((read.file_buffers[0].identity.as_deref(), read.to_json()), (None, without));
    }

    #[test]
    fn another_file_is_told_by_its_identity_or_else_by_its_path() {
        let file = |path: &str, identity: Option<&str>| FileBufferDesc {
            identity: identity.map(str::to_owned),
            ..FileBufferDesc::new(FileBufferId(1), path, 1, 1)
        };
        let known = file("/a", Some(NGUID));
        assert!(!file("./a", Some(NGUID)).is_another_than(&known));
        assert!(file("/a", Some("other")).is_another_than(&known));
        assert!(!file("/a", None).is_another_than(&known) && file("/b", None).is_another_than(&known));
    }

    #[test]
    fn timestamps_have_microseconds() {
        let mut desc = ours();
        desc.stamp();
        let shape: String = desc.timestamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00 00:00:00.000000");
    }

    #[test]
    fn unknown_fields_survive_reading_and_writing() {
        let text = r#"{"name":"a","protocol":"rdma","tcp_data_port":7,"timestamp":"","devices":[{"name":"mlx5_0"}],"buffers":[],"file_buffers":[{"id":3,"path":"/x","size":1,"align":0,"weight":2}]}"#;
        assert_eq!(SegmentDesc::from_json(text).unwrap().to_json(), text);
        // Found by fuzzing: read without care, this is another number when it has been written and read again.
        let number = SegmentDesc::from_json(r#"{"weights":[18446744077013915656,1e3,0.1]}"#).unwrap();
        assert_eq!(SegmentDesc::from_json(&number.to_json()).unwrap(), number);
        let sparse = SegmentDesc::from_json(r#"{"protocol":"rdma"}"#).unwrap();
        assert_eq!((sparse.name.as_str(), sparse.file_buffers.len()), ("", 0));
    }

    #[test]
    fn nonsense_is_refused_with_what_was_received() {
        for text in
            ["", "<html>not here</html>", "[1,2]", "7", r#"{"file_buffers":7}"#, r#"{"file_buffers":[{"id":-1}]}"#]
        {
            let error = SegmentDesc::from_json(text).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
        let long = SegmentDesc::from_json(&format!("\"{}\"", "x".repeat(100_000))).unwrap_err();
        assert!(long.len() < 500 && long.contains("xxx… at line 1 column 100002; it holds '\"xxx"), "{long}");
    }

    #[test]
    fn p11_what_others_published_under_the_name_stays() {
        let text = r#"{"name":"10.0.0.7:8081","protocol":"rdma","tcp_data_port":5,"timestamp":"x","devices":[1],"file_buffers":[]}"#;
        let theirs = SegmentDesc::from_json(text).unwrap();
        let merged = merge(Some(theirs.clone()), &ours());
        assert_eq!((merged.protocol.as_str(), merged.tcp_data_port), ("rdma", 5));
        assert_eq!(merged.extra["devices"], json!([1]));
        assert_eq!(merged.extra["nvmeof_generic_trid"], ours().extra["nvmeof_generic_trid"]);
        assert_eq!(merged.file_buffers, ours().file_buffers);
        assert!(holds_more_than(&theirs, &ours()) && holds_more_than(&merged, &ours()));
        let mut left = without(merged, &ours()).unwrap();
        left.timestamp.clone_from(&theirs.timestamp);
        assert_eq!(left, theirs);
    }

    #[test]
    fn what_is_only_ours_is_replaced_and_withdrawn_whole() {
        let mut stale = ours();
        stale.file_buffers.push(FileBufferDesc::new(FileBufferId(9), "/gone", 1, 1));
        assert_eq!(merge(Some(stale.clone()), &ours()), ours());
        assert_eq!(without(stale, &ours()), None);
        assert_eq!(merge(None, &ours()), ours());
    }
}
