//! How the HTTP service is addressed and entered: `http://host:port/path[?ca=FILE&token_file=FILE]`, or `https://`.
//!
//! A token is never part of an address, which `ps`, logs and reports show: it comes from the environment or from a file.

use crate::metadata::secret_file::read_secret;
use reqwest::Url;
use reqwest::header::HeaderValue;
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// The token.
const TOKEN_VARIABLE: &str = "NVFERRY_METADATA_TOKEN";
/// A file that holds it.
const TOKEN_FILE_VARIABLE: &str = "NVFERRY_METADATA_TOKEN_FILE";
const LONGEST_TOKEN_BYTES: usize = 1024;

pub(super) const TOKEN_IS_WRONG: &str = ": give its right token in NVFERRY_METADATA_TOKEN, or in a file that \
    NVFERRY_METADATA_TOKEN_FILE or ?token_file= names";
pub(super) const TOKEN_IS_MISSING: &str = ": give its token in NVFERRY_METADATA_TOKEN, or in a file that \
    NVFERRY_METADATA_TOKEN_FILE or ?token_file= names";

/// Where the service is, and how it is entered.
#[derive(Debug)]
pub(super) struct Access {
    /// Without options: what is asked, and shown to people.
    pub(super) url: String,
    pub(super) is_tls: bool,
    /// What is sent there does not leave this machine.
    pub(super) is_loopback: bool,
    /// PEM file of the authorities that are trusted in place of the system's.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "such an address is refused then"))]
    pub(super) ca: Option<PathBuf>,
    pub(super) token: Option<Token>,
}

/// What the service wants to see with every request. It does not show itself.
#[derive(Clone)]
pub(super) struct Token {
    text: String,
    header: HeaderValue,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    fn new(text: String) -> Result<Self, String> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || text.len() > LONGEST_TOKEN_BYTES || !is_plain {
            return Err(format!("a token is 1 to {LONGEST_TOKEN_BYTES} visible ASCII characters without blanks"));
        }
        let header = HeaderValue::try_from(format!("Bearer {text}"));
        let mut header = header.map_err(|_| "the token cannot be sent in a header".to_owned())?;
        // The HTTP library does not show it either, then.
        header.set_sensitive(true);
        Ok(Self { text, header })
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// A text in which this token does not stand.
    pub(super) fn hidden_in(&self, text: &str) -> String {
        text.replace(&self.text, "…")
    }
}

impl Access {
    /// Takes an address apart and reads the token. `variable` is the environment.
    pub(super) fn parse(text: &str, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, String> {
        let (place, options) = text.split_once('?').unwrap_or((text, ""));
        let parsed = Url::parse(place).map_err(|error| error.to_string())?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(format!(
                "a user or password in an address is shown by ps and in logs: give a token in {TOKEN_VARIABLE}, or in a \
                 file that {TOKEN_FILE_VARIABLE} or ?token_file= names"
            ));
        }
        if parsed.fragment().is_some() {
            return Err("a # has no place in it".into());
        }
        let host = parsed.host_str().filter(|host| !host.is_empty()).ok_or("it names no host")?;
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let is_loopback = address.map_or(host == "localhost", |address| address.is_loopback());
        let is_tls = parsed.scheme() == "https";
        let (mut ca, mut token_file) = (None, None);
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let place = match name {
                "ca" => &mut ca,
                "token_file" => &mut token_file,
                // The value is not repeated: it may be a token.
                _ => return Err(format!("'{name}' is no option: there are ca and token_file")),
            };
            if value.is_empty() {
                return Err(format!("option {name} names no file"));
            }
            if place.replace(PathBuf::from(value)).is_some() {
                return Err(format!("option {name} is given twice"));
            }
        }
        if ca.is_some() && !is_tls {
            return Err("ca is for TLS: begin the address with https://".into());
        }
        Ok(Self { url: place.to_owned(), is_tls, is_loopback, ca, token: token(token_file, variable)? })
    }
}

/// The file in the address goes first, the file in the environment last.
fn token(file: Option<PathBuf>, variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Token>, String> {
    let from_file = |file: PathBuf, source: &str| {
        let text = read_secret("token", &file)?;
        Token::new(text).map_err(|why| format!("{source}: {why}"))
    };
    if let Some(file) = file {
        return from_file(file, "token_file").map(Some);
    }
    // Set and empty is a mistake, not the wish to go without.
    if let Some(text) = variable(TOKEN_VARIABLE) {
        let text = text.into_string().map_err(|_| format!("{TOKEN_VARIABLE} is not text"))?;
        return Token::new(text).map_err(|why| format!("{TOKEN_VARIABLE}: {why}")).map(Some);
    }
    variable(TOKEN_FILE_VARIABLE).map(|file| from_file(file.into(), TOKEN_FILE_VARIABLE)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn parse(text: &str) -> Result<Access, String> {
        Access::parse(text, |name| (name == TOKEN_VARIABLE).then(|| "geheim".into()))
    }

    #[test]
    fn addresses_are_taken_apart() {
        for (text, url, is_tls, is_loopback) in [
            ("http://127.0.0.1:8080/metadata", "http://127.0.0.1:8080/metadata", false, true),
            ("http://[::1]:1/m", "http://[::1]:1/m", false, true),
            ("http://localhost/m", "http://localhost/m", false, true),
            ("http://localhost.evil/m?", "http://localhost.evil/m", false, false),
            ("http://0.0.0.0:1/m", "http://0.0.0.0:1/m", false, false),
            ("HTTPS://10.0.0.1/m?ca=/x", "HTTPS://10.0.0.1/m", true, false),
        ] {
            let access = parse(text).unwrap();
            assert_eq!((access.url.as_str(), access.is_tls, access.is_loopback), (url, is_tls, is_loopback), "{text}");
            let shown = format!("{access:?} {:?}", access.token.as_ref().unwrap().header());
            assert!(!shown.contains("geheim"), "{shown}");
            assert_eq!(access.token.unwrap().header().to_str().unwrap(), "Bearer geheim");
        }
        assert!(Access::parse("http://a", |_| None).unwrap().token.is_none());
    }

    #[test]
    fn what_is_wrong_is_said_and_secrets_are_not() {
        for (text, why) in [
            ("http://u:geheim@a/m", "NVFERRY_METADATA_TOKEN"),
            ("http://geheim@a/m", "NVFERRY_METADATA_TOKEN"),
            ("http://u:geheim/x@a/m", "invalid port"),
            ("http://a/m?token=geheim", "no option"),
            ("http://a/m?ca=/x", "https://"),
            ("https://a/m?ca=", "no file"),
            ("https://a/m?ca=/x&ca=/y", "twice"),
            ("https://a/m#geheim", "#"),
            ("https://a/m?token_file=/does/not/exist", "/does/not/exist"),
        ] {
            let error = parse(text).err().unwrap_or_else(|| panic!("{text} was taken"));
            assert!(error.contains(why) && !error.contains("geheim"), "{text}: {error}");
            let error = crate::metadata::http::HttpStore::new(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains(":geheim") && !error.contains("=geheim"), "{text}: {error}");
        }
        for token in ["", "two words", "ü", "line\nline"] {
            let error = Access::parse("http://a", |_| Some(token.into())).unwrap_err();
            assert!(error.contains("visible ASCII") && error.contains(TOKEN_VARIABLE), "{error}");
        }
    }

    #[test]
    fn the_file_in_the_address_goes_first_and_the_one_in_the_environment_last() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("{name}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path.into_os_string()
        };
        let (here, there) = (file("here"), file("there"));
        let token = |text: &str, both: bool| {
            let variable = |name: &str| match name {
                TOKEN_FILE_VARIABLE => Some(there.clone()),
                _ => both.then(|| "text".into()),
            };
            Access::parse(text, variable).unwrap().token.unwrap().text
        };
        let named = format!("http://a/m?token_file={}", here.to_str().unwrap());
        assert_eq!([token(&named, true), token("http://a", true), token("http://a", false)], ["here", "text", "there"]);
    }
}
