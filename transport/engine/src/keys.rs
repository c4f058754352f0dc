//! The keys under which things are published, as the original writes them.

/// Makes keys: the prefix, and the cluster's id after it where one is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Keys of this cluster; `None` or an empty id for the one that has no id.
    #[must_use]
    pub fn new(cluster_id: Option<&str>) -> Self {
        let prefix = match cluster_id.map(|id| id.trim_end_matches('/')).filter(|id| !id.is_empty()) {
            Some(id) => format!("mooncake/{id}/"),
            None => "mooncake/".into(),
        };
        Self { prefix }
    }

    /// What all keys begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The key of a segment's description.
    #[must_use]
    pub fn segment(&self, name: &str) -> String {
        let kind = if name.contains('/') { "" } else { "ram/" };
        format!("{}{kind}{name}", self.prefix)
    }

    /// The segment whose description a key holds; `None` for keys of another kind or another cluster.
    #[must_use]
    pub fn segment_name<'a>(&self, key: &'a str) -> Option<&'a str> {
        let rest = key.strip_prefix(&self.prefix)?;
        match rest.split_once('/') {
            Some(("ram", name)) => (!name.is_empty() && !name.contains('/')).then_some(name),
            Some(("rpc_meta", _)) | None => None,
            // Where no cluster is set, what other clusters published looks like a segment in a directory.
            Some((_, name)) => (!name.starts_with("ram/") && !name.starts_with("rpc_meta/")).then_some(rest),
        }
    }

    /// The key that says where a server name is reached, and whose it is.
    #[must_use]
    pub fn rpc_meta(&self, server_name: &str) -> String {
        format!("{}rpc_meta/{server_name}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_originals() {
        let keys = Keys::new(None);
        assert_eq!(keys.segment("10.0.0.7:8081"), "mooncake/ram/10.0.0.7:8081");
        assert_eq!(keys.segment("pool/a"), "mooncake/pool/a");
        assert_eq!(keys.rpc_meta("10.0.0.7:8081"), "mooncake/rpc_meta/10.0.0.7:8081");
    }

    #[test]
    fn segments_are_found_by_their_keys() {
        let keys = Keys::new(None);
        for name in ["10.0.0.7:8081", "a", "pool/a"] {
            assert_eq!(keys.segment_name(&keys.segment(name)), Some(name));
        }
        let blue = Keys::new(Some("blue"));
        assert_eq!(blue.segment_name(&blue.segment("a")), Some("a"));
        for key in [keys.rpc_meta("a"), blue.segment("a"), blue.rpc_meta("a"), "mooncake/ram/".into(), "other".into()] {
            assert_eq!(keys.segment_name(&key), None, "{key}");
        }
    }

    #[test]
    fn a_cluster_has_keys_of_its_own() {
        for id in ["blue", "blue/"] {
            assert_eq!(Keys::new(Some(id)).segment("a"), "mooncake/blue/ram/a");
            assert_eq!(Keys::new(Some(id)).rpc_meta("a"), "mooncake/blue/rpc_meta/a");
        }
        assert_eq!(Keys::new(Some("")), Keys::new(None));
    }
}
