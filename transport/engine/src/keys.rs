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

    /// The key of a segment's description.
    #[must_use]
    pub fn segment(&self, name: &str) -> String {
        let kind = if name.contains('/') { "" } else { "ram/" };
        format!("{}{kind}{name}", self.prefix)
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
    fn a_cluster_has_keys_of_its_own() {
        for id in ["blue", "blue/"] {
            assert_eq!(Keys::new(Some(id)).segment("a"), "mooncake/blue/ram/a");
            assert_eq!(Keys::new(Some(id)).rpc_meta("a"), "mooncake/blue/rpc_meta/a");
        }
        assert_eq!(Keys::new(Some("")), Keys::new(None));
    }
}
