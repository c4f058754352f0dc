//! What an engine offers, as it is published: the original's JSON, with whatever else stands in it kept.

use crate::ids::FileBufferId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One file that a segment offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileBufferDesc {
    /// Names it within the segment.
    pub id: FileBufferId,
    /// Its path on its own node.
    pub path: String,
    /// Bytes that can be reached.
    pub size: u64,
    /// Bytes that offsets and lengths are best multiples of.
    pub align: u64,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What one engine offers under its server name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentDesc {
    /// The server name.
    pub name: String,
    /// The transport that it is for.
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
