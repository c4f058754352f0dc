//! What people and scripts read: answers on standard output, one sentence of complaint on standard error.

use std::io::{self, Write};

/// Writes an answer. A reader that has had enough (`| head`) is no error.
///
/// # Errors
/// When standard output fails in another way, such as a full disk.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::anyhow!("cannot write to standard output: {error}"))
        }
        _ => Ok(()),
    }
}

/// Says why it failed.
pub(crate) fn complain(error: &anyhow::Error) {
    // There is nowhere left to say that this failed.
    let _ = writeln!(io::stderr().lock(), "nvferry: {error:#}");
}
