//! `nvferry secret`: makes a secret for DH-HMAC-CHAP.

use crate::cli::SecretArgs;
use crate::output::say;
use anyhow::{Context, Result, bail};
use nvferry_auth::{AuthHash, Secret};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;

pub(crate) fn run(args: &SecretArgs) -> Result<()> {
    let hash = AuthHash::ALL.into_iter().find(|hash| hash.to_string() == args.hash);
    let text = Secret::generate(hash)?.expose();
    let Some(path) = &args.out else { return say(&text) };
    let doing = || format!("cannot write a secret to {}", path.display());
    let file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{}: that exists, and may hold a secret that is in use; choose another name", doing())
        }
        opened => opened,
    };
    let mut file = file.with_context(doing)?;
    writeln!(file, "{}", *text).and_then(|()| file.sync_all()).with_context(doing)
}
