//! `nvferry metadata`: the metadata service, until it is told to stop.

use crate::cli::MetadataArgs;
use crate::descriptors;
use crate::log::Log;
use crate::output;
use crate::signals::StopSignal;
use anyhow::{Context, Result, anyhow};
use nvferry_engine::metadata::secret_file::{check_closed, read_secret};
use nvferry_store::metadata::{Limits, TlsFiles, Token};
use nvferry_store::{MetadataServer, MetadataServerOptions};
use std::path::{Path, PathBuf};

/// Descriptors that are not connections: the store, the log, the listener, the runtime's own.
const OTHER_DESCRIPTORS: usize = 32;

pub(crate) fn run(args: &MetadataArgs, log: Log) -> Result<()> {
    let stop = StopSignal::install(false)?;
    let store = store(args)?;
    let token = token(args)?;
    let tls = tls(args)?;
    let options = MetadataServerOptions {
        listen: args.listen.clone(),
        path: args.path.clone(),
        store: store.clone(),
        token,
        tls,
        limits: limits(),
        ..MetadataServerOptions::default()
    };
    // What it warns of when it starts is not said otherwise.
    log.serving();
    let server = MetadataServer::start(options)?;
    output::say(&match &store {
        Some(path) => format!("metadata service at {} keeps its entries in {}", server.url(), path.display()),
        None => format!("metadata service at {} keeps its entries in memory only", server.url()),
    })?;
    stop.wait();
    server.shutdown();
    Ok(())
}

/// The file that keeps the entries, with its directory made where it is the default one.
fn store(args: &MetadataArgs) -> Result<Option<PathBuf>> {
    if args.no_store {
        return Ok(None);
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = args.store.clone().or_else(|| variable("NVFERRY_METADATA_STORE")) {
        return Ok(Some(path));
    }
    if args.listen.ends_with(":0") {
        return Ok(None);
    }
    let directory = variable("STATE_DIRECTORY")
        .or_else(|| variable("XDG_STATE_HOME").map(|state| state.join("nvferry")))
        .or_else(|| variable("HOME").map(|home| home.join(".local/state/nvferry")))
        .ok_or_else(|| {
            anyhow!("HOME is not set, so there is no place to keep the entries; give --store FILE, or --no-store")
        })?;
    std::fs::create_dir_all(&directory).with_context(|| {
        format!("cannot make {} to keep the entries in; give --store FILE, or --no-store", directory.display())
    })?;
    Ok(Some(default_file(&directory, &args.listen)))
}

/// What requests have to bear: the flag's file, else the environment's token, else its file, as with clients.
fn token(args: &MetadataArgs) -> Result<Option<Token>> {
    let from_file = |file: &Path| {
        let text = read_secret("token", file).map_err(|why| anyhow!(why))?;
        Token::new(&text).with_context(|| format!("token file {}", file.display())).map(Some)
    };
    if let Some(file) = &args.token_file {
        return from_file(file);
    }
    // Set and empty is a mistake, which must not open the service to everybody.
    if let Some(text) = std::env::var_os("NVFERRY_METADATA_TOKEN") {
        return Token::new(&text.to_string_lossy()).context("NVFERRY_METADATA_TOKEN").map(Some);
    }
    match std::env::var_os("NVFERRY_METADATA_TOKEN_FILE") {
        Some(file) => from_file(Path::new(&file)),
        None => Ok(None),
    }
}

fn tls(args: &MetadataArgs) -> Result<Option<TlsFiles>> {
    let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) else { return Ok(None) };
    check_closed("key", key).map_err(|why| anyhow!(why))?;
    Ok(Some(TlsFiles { certificate: certificate.clone(), key: key.clone() }))
}

/// One file for each address, so that two services on one machine do not meet.
fn default_file(directory: &Path, listen: &str) -> PathBuf {
    let name: String =
        listen.chars().map(|char| if char.is_ascii_alphanumeric() || char == '.' { char } else { '-' }).collect();
    directory.join(format!("metadata-{name}.redb"))
}

/// The usual bounds, and no more connections than this process may have descriptors.
fn limits() -> Limits {
    let usual = Limits::default();
    let got = descriptors::ask_for(usual.connections + OTHER_DESCRIPTORS);
    let connections = got.saturating_sub(OTHER_DESCRIPTORS);
    Limits { connections: connections.clamp(1, usual.connections), ..usual }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_a_file_of_its_own() {
        let file = |listen| default_file(Path::new("/state"), listen).display().to_string();
        assert_eq!(file("127.0.0.1:8080"), "/state/metadata-127.0.0.1-8080.redb");
        assert_eq!(file("[::1]:80"), "/state/metadata----1--80.redb");
        assert_eq!(file("../x/y:1"), "/state/metadata-..-x-y-1.redb");
    }

    #[test]
    fn there_are_never_more_connections_than_descriptors() {
        let limits = limits();
        let soft = descriptors::ask_for(0);
        assert!(limits.connections <= soft, "{} connections, {soft} descriptors", limits.connections);
        assert!(limits.connections <= Limits::default().connections);
    }
}
