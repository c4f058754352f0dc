//! A file that holds one secret: a password, a token.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The longest file that is read, in bytes.
const LONGEST_BYTES: usize = 4096;

/// One line, without its end. `what` is what the secret is, for people.
///
/// # Errors
/// A sentence, when the file cannot be read, is open to everybody, or holds something else.
pub fn read_secret(what: &str, path: &Path) -> Result<String, String> {
    let cannot = |error| format!("the {what} file {} cannot be read: {error}", path.display());
    let file = File::open(path).map_err(cannot)?;
    refuse_open(what, path, &file.metadata().map_err(cannot)?)?;
    let mut text = String::new();
    file.take(LONGEST_BYTES as u64 + 1).read_to_string(&mut text).map_err(cannot)?;
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.is_empty() || secret.contains(['\n', '\r']) || text.len() > LONGEST_BYTES {
        return Err(format!("the {what} file {} must hold one line, the {what}", path.display()));
    }
    Ok(secret.to_owned())
}

/// A secret that everybody on this machine can read or change is none. What is wrong with the file otherwise, reading it tells.
///
/// # Errors
/// A sentence, when the file is open to everybody.
pub fn check_closed(what: &str, path: &Path) -> Result<(), String> {
    std::fs::metadata(path).map_or(Ok(()), |metadata| refuse_open(what, path, &metadata))
}

fn refuse_open(what: &str, path: &Path, metadata: &Metadata) -> Result<(), String> {
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o007 != 0 {
        let path = path.display();
        return Err(format!("the {what} file {path} is open to everybody (mode {mode:04o}): `chmod 600 {path}`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};

    #[test]
    fn a_file_that_is_open_to_everybody_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "geheim\n").unwrap();
        for mode in [0o600, 0o400, 0o640] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_secret("token", &path).unwrap(), "geheim", "{mode:o}");
            check_closed("token", &path).unwrap();
        }
        for mode in [0o644, 0o604, 0o602] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            for error in [read_secret("token", &path).unwrap_err(), check_closed("token", &path).unwrap_err()] {
                assert!(error.contains(&format!("mode {mode:04o}")) && error.contains("chmod 600"), "{error}");
                assert!(!error.contains("geheim"), "{error}");
            }
        }
    }
}
