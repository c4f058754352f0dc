//! Who is answered: everybody, or those who bear the token.

use hyper::header::{AUTHORIZATION, HeaderMap};
use std::fmt;
use std::sync::Arc;
use subtle::ConstantTimeEq;

const SHORTEST_BYTES: usize = 16;
const LONGEST_BYTES: usize = 1024;

/// What requests have to bear (RFC 6750). It does not show itself.
#[derive(Clone)]
pub struct Token(Arc<str>);

/// Why a text is no token. The text is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a token is {SHORTEST_BYTES} to {LONGEST_BYTES} visible ASCII characters without blanks, and nobody can guess it; \
     `openssl rand -hex 32` makes one"
)]
pub struct TokenError;

/// Whether a request is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Open,
    NoToken,
    WrongToken,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// A token of this text.
    ///
    /// # Errors
    /// When it is too short or too long, or has characters other than visible ASCII.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        let is_token = is_plain && (SHORTEST_BYTES..=LONGEST_BYTES).contains(&text.len());
        if is_token { Ok(Self(text.into())) } else { Err(TokenError) }
    }

    pub(super) fn entry(&self, headers: &HeaderMap) -> Entry {
        let Some(value) = headers.get(AUTHORIZATION) else { return Entry::NoToken };
        let shown = match value.as_bytes().split_at_checked(7) {
            Some((scheme, shown)) if scheme.eq_ignore_ascii_case(b"bearer ") => shown.trim_ascii(),
            // Another way of proving oneself, which this service does not know.
            _ => return Entry::NoToken,
        };
        // The time tells no more than whether the length is right.
        if shown.ct_eq(self.0.as_bytes()).into() { Entry::Open } else { Entry::WrongToken }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn only_the_whole_token_lets_in() {
        let token = Token::new("0123456789abcdef").unwrap();
        let entry = |value: &'static str| {
            token.entry(&HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]))
        };
        assert_eq!(token.entry(&HeaderMap::new()), Entry::NoToken);
        for value in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef "] {
            assert_eq!(entry(value), Entry::Open, "{value}");
        }
        for value in ["Bearer ", "Bearer 0123456789abcde", "Bearer 0123456789abcdef0", "Bearer 0123456789ABCDEF"] {
            assert_eq!(entry(value), Entry::WrongToken, "{value}");
        }
        for value in ["", "Bearer", "0123456789abcdef", "Basic 0123456789abcdef", "Bearer0123456789abcdef"] {
            assert_eq!(entry(value), Entry::NoToken, "{value}");
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn what_could_be_guessed_or_not_be_sent_is_no_token() {
        for text in ["", "short", "0123456789abcde", "0123456789 abcdef", "0123456789abcdéf", &"x".repeat(1025)] {
            assert_eq!(Token::new(text).err(), Some(TokenError), "{text}");
        }
    }
}
