//! NVMe qualified names (base specification 4.5).
//!
//! Names that a person gives are held to the rules ([`Nqn::new`]): a typing error is found before it travels.
//! Names that a peer sends are read tolerantly ([`Nqn::from_wire`]), since real systems use names outside the
//! rules.

use std::fmt;
use std::str::FromStr;

/// The longest name, in bytes.
pub const NQN_MAX_LEN: usize = 223;
/// The bytes that a name takes in a structure; unused ones are zero.
pub const NQN_FIELD_LEN: usize = 256;
/// The name of every discovery service.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// The name of a host or a subsystem: 1 to 223 bytes of UTF-8 without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nqn(String);

/// Why a text is no NQN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NqnError {
    /// No text at all.
    #[error("an NQN is empty; give one such as nqn.2016-06.io.example:storage1")]
    Empty,
    /// More than 223 bytes.
    #[error("an NQN of {0} bytes is too long; at most 223 are allowed")]
    TooLong(usize),
    /// The bytes are not UTF-8.
    #[error("an NQN is not valid UTF-8 from byte {0} on")]
    NotUtf8(usize),
    /// A NUL, another control character, or white space.
    #[error("NQN {0:?} contains white space or a control character")]
    ForbiddenCharacter(String),
    /// Another form than the specification's two.
    #[error(
        "NQN {0:?}: {1}; the form is nqn.yyyy-mm.reverse.domain:name (such as nqn.2016-06.io.example:storage1) \
         or nqn.2014-08.org.nvmexpress:uuid:<UUID>"
    )]
    Form(String, &'static str),
    /// A field of 256 bytes that does not end with a NUL.
    #[error("an NQN field has no terminating NUL")]
    Unterminated,
}

impl Nqn {
    /// A name that follows the rules.
    ///
    /// # Errors
    /// What is wrong with it, with an example of a right one.
    pub fn new(name: impl Into<String>) -> Result<Self, NqnError> {
        let nqn = Self::tolerant(name.into())?;
        match nqn.fault() {
            None => Ok(nqn),
            Some(why) => Err(NqnError::Form(nqn.0, why)),
        }
    }

    /// The name of every discovery service.
    pub fn discovery() -> Self {
        Self(DISCOVERY_NQN.to_owned())
    }

    /// A host's name made from a UUID, in the specification's second form.
    pub fn from_uuid(uuid: [u8; 16]) -> Self {
        Self(format!("{UUID_PREFIX}{}", crate::HostId(uuid)))
    }

    /// The name in a field of 256 bytes: up to the first NUL, of any form.
    ///
    /// # Errors
    /// No NUL, nothing before it, too long, not UTF-8, or control characters.
    pub fn from_wire(field: &[u8; NQN_FIELD_LEN]) -> Result<Self, NqnError> {
        let len = field.iter().position(|&b| b == 0).ok_or(NqnError::Unterminated)?;
        let text = str::from_utf8(&field[..len]).map_err(|e| NqnError::NotUtf8(e.valid_up_to()))?;
        Self::tolerant(text.to_owned())
    }

    /// The name as a field of 256 bytes, padded with NULs.
    pub fn to_wire(&self) -> [u8; NQN_FIELD_LEN] {
        let mut field = [0; NQN_FIELD_LEN];
        // A name has at most 223 bytes, whichever way it was made; zip cannot go beyond either.
        for (slot, &byte) in field.iter_mut().zip(self.0.as_bytes()) {
            *slot = byte;
        }
        field
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the well-known name of discovery services.
    pub fn is_discovery(&self) -> bool {
        self.0 == DISCOVERY_NQN
    }

    /// What any name must fulfil, also one that a peer sends.
    fn tolerant(name: String) -> Result<Self, NqnError> {
        if name.is_empty() {
            return Err(NqnError::Empty);
        }
        if name.len() > NQN_MAX_LEN {
            return Err(NqnError::TooLong(name.len()));
        }
        if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(NqnError::ForbiddenCharacter(name));
        }
        Ok(Self(name))
    }

    /// What the specification's two forms forbid.
    fn fault(&self) -> Option<&'static str> {
        if self.is_discovery() {
            return None;
        }
        if let Some(uuid) = self.0.strip_prefix(UUID_PREFIX) {
            return (!is_uuid(uuid)).then_some("what follows uuid: is no UUID");
        }
        let Some(rest) = self.0.strip_prefix("nqn.") else { return Some("it does not begin with nqn.") };
        let Some((date, rest)) = rest.split_at_checked(7) else { return Some("the date yyyy-mm is missing") };
        let Some(rest) = rest.strip_prefix('.') else { return Some("no dot follows the date yyyy-mm") };
        if !is_year_and_month(date) {
            return Some("the date is not yyyy-mm");
        }
        let Some((domain, name)) = rest.split_once(':') else {
            return Some("no colon separates the domain from the name");
        };
        if name.is_empty() {
            return Some("nothing follows the colon");
        }
        let good_label = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        (!domain.split('.').all(good_label)).then_some("what stands between the date and the colon is no domain name")
    }
}

fn is_year_and_month(date: &str) -> bool {
    let &[y0, y1, y2, y3, b'-', m0, m1] = date.as_bytes() else { return false };
    let digits = [y0, y1, y2, y3, m0, m1].iter().all(u8::is_ascii_digit);
    digits && matches!((m0, m1), (b'0', b'1'..=b'9') | (b'1', b'0'..=b'2'))
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

impl FromStr for Nqn {
    type Err = NqnError;

    fn from_str(text: &str) -> Result<Self, NqnError> {
        Self::new(text)
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Nqn {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_forms_are_taken() {
        for name in [
            "nqn.2014-08.org.nvmexpress.discovery",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "nqn.2016-06.io.spdk:cnode1",
            "nqn.2016-06.io.mc:10.0.0.7:8081",
            "nqn.2014-08.com.example:nvme:nvm-subsystem-sn-d78432",
            "nqn.1988-11.com.dell:powerstore:00:2a1b",
            "nqn.2016-06.io.mc:größe",
        ] {
            assert_eq!(Nqn::new(name).map(|nqn| nqn.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn names_that_break_the_rules_are_refused() {
        for name in [
            "node7",
            "NQN.2016-06.io.mc:x",
            "nqn.",
            "nqn.2016-6.io.mc:x",
            "nqn.2016-13.io.mc:x",
            "nqn.2016-00.io.mc:x",
            "nqn.20x6-06.io.mc:x",
            "nqn.2016-06:x",
            "nqn.2016-06.io.mc",
            "nqn.2016-06.io.mc:",
            "nqn.2016-06.:x",
            "nqn.2016-06.io..mc:x",
            "nqn.2016-06.-io.mc:x",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae_7dec_11d0_a765_00a0c91e6bf6",
            "nqn.2014-08.größe:x",
            "nqn.ü016-06.io.mc:x",
        ] {
            let refused = Nqn::new(name).expect_err(name).to_string();
            assert!(refused.contains("such as nqn.2016-06.io.example:storage1"), "{refused}");
        }
        assert_eq!(Nqn::new(""), Err(NqnError::Empty));
        for name in ["nqn.2016-06.io.mc:a b", "nqn.2016-06.io.mc:a\0", "nqn.2016-06.io.mc:a\n"] {
            assert!(matches!(Nqn::new(name), Err(NqnError::ForbiddenCharacter(_))), "{name:?}");
        }
    }

    #[test]
    fn the_longest_name_has_223_bytes() {
        let prefix = "nqn.2016-06.io.mc:";
        let longest = format!("{prefix}{}", "x".repeat(NQN_MAX_LEN - prefix.len()));
        let nqn = Nqn::new(longest.clone()).unwrap();
        assert_eq!(Nqn::from_wire(&nqn.to_wire()), Ok(nqn));
        assert_eq!(Nqn::new(longest + "x"), Err(NqnError::TooLong(224)));
    }

    #[test]
    fn peers_may_use_other_names_within_reason() {
        let field = |bytes: &[u8]| {
            let mut field = [0; NQN_FIELD_LEN];
            field[..bytes.len()].copy_from_slice(bytes);
            Nqn::from_wire(&field)
        };
        // What Linux calls a PCI subsystem without a name of its own, and what tests call theirs.
        assert!(field(b"nqn.2014.08.org.nvmexpress:8086:sn").is_ok());
        assert!(field(b"blktests-subsystem-1").is_ok());
        // What stands after the first NUL does not count.
        assert_eq!(field(b"a\0b").map(|nqn| nqn.to_string()), Ok("a".to_owned()));
        assert_eq!(field(b""), Err(NqnError::Empty));
        assert_eq!(field(b"ab\xFFc"), Err(NqnError::NotUtf8(2)));
        assert_eq!(field(&[b'x'; 224]), Err(NqnError::TooLong(224)));
        assert_eq!(field(&[b'x'; 256]), Err(NqnError::Unterminated));
        assert!(matches!(field(b"a\x1bb"), Err(NqnError::ForbiddenCharacter(_))));
    }
}
