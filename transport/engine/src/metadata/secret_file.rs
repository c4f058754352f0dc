//! A file that holds one secret: a password, a token.

use std::io::Read;
use std::path::Path;

/// The longest file that is read, in bytes.
const LONGEST_BYTES: usize = 4096;

/// One line, without its end. `what` is what the secret is, for people.
///
/// # Errors
/// A sentence, when the file cannot be read or holds something else.
pub fn read_secret(what: &str, path: &Path) -> Result<String, String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LONGEST_BYTES as u64 + 1).read_to_string(&mut text))
        .map_err(|error| format!("the {what} file {} cannot be read: {error}", path.display()))?;
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.is_empty() || secret.contains(['\n', '\r']) || text.len() > LONGEST_BYTES {
        return Err(format!("the {what} file {} must hold one line, the {what}", path.display()));
    }
    Ok(secret.to_owned())
}
