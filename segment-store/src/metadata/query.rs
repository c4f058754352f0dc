//! The query of a request: percent-encoded `name=value` pairs, of which the first of a name counts.

use percent_encoding::percent_decode;

/// Why a query could not be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error("the value of `{0}` is not UTF-8 when its percent-encoding is undone")]
    NotUtf8(&'static str),
    #[error("the value of `{0}` is not a whole number: `{1}`")]
    NotANumber(&'static str, String),
}

/// The value under `name`, decoded as the original's servers do: `%2F` is a slash, `+` is a space.
pub(super) fn text(query: &str, name: &'static str) -> Result<Option<String>, QueryError> {
    let Some(value) = query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    }) else {
        return Ok(None);
    };
    let spaced = value.replace('+', " ");
    let decoded = percent_decode(spaced.as_bytes()).decode_utf8().map_err(|_| QueryError::NotUtf8(name))?;
    Ok(Some(decoded.into_owned()))
}

/// The number under `name`.
pub(super) fn number(query: &str, name: &'static str) -> Result<Option<u64>, QueryError> {
    text(query, name)?
        .map(|value| value.parse().map_err(|_| QueryError::NotANumber(name, value.chars().take(32).collect())))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_out_as_they_were_before_encoding() {
        for key in ["mooncake/ram/10.0.0.7:8081", "a b+c", "ü/✓", "100%", "a&b=c", "#?"] {
            let encoded = percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC).to_string();
            assert_eq!(text(&format!("x=1&key={encoded}&key=second"), "key"), Ok(Some(key.to_owned())));
        }
    }

    #[test]
    fn what_is_not_encoded_is_taken_as_it_is() {
        assert_eq!(text("key=mooncake/ram/a:1", "key"), Ok(Some("mooncake/ram/a:1".into())));
        assert_eq!(text("key=50%zz%4", "key"), Ok(Some("50%zz%4".into())));
        assert_eq!(text("key=a=b", "key"), Ok(Some("a=b".into())));
        assert_eq!(text("key", "key"), Ok(Some(String::new())));
    }

    #[test]
    fn absent_and_wrong_values_are_told_apart() {
        assert_eq!(text("", "key"), Ok(None));
        assert_eq!(text("keys=1", "key"), Ok(None));
        assert_eq!(text("key=%ff", "key"), Err(QueryError::NotUtf8("key")));
        assert_eq!(number("wait_ms=", "wait_ms"), Err(QueryError::NotANumber("wait_ms", String::new())));
        assert_eq!(number("wait_ms=-1", "wait_ms"), Err(QueryError::NotANumber("wait_ms", "-1".into())));
        assert_eq!(number("wait_ms=5", "wait_ms"), Ok(Some(5)));
    }
}
