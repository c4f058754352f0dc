//! The command line. A flag wins over the environment, which wins over the default. Flags are spelled with dashes;
//! underscores, as the original's tools have them, do as well.

use crate::files::FileArg;
use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand};
use std::path::PathBuf;

/// Files as segments over NVMe fabrics: serve them, find them, look at them.
///
/// Exit status: 0 done; 1 it failed, and one sentence on standard error says why; 2 the command line is wrong.
#[derive(Debug, Parser)]
#[command(name = "nvferry", version)]
pub(crate) struct Cli {
    /// Say more on standard error; twice, still more [env: NVFERRY_LOG takes a filter such as `info`]
    #[arg(short, long, action = clap::ArgAction::Count, global = true, display_order = 900)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
// Made once in a process's life: its size is no matter.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Command {
    /// Run the HTTP metadata service, where nodes publish their segments and find others'
    Metadata(MetadataArgs),
    /// Serve files or block devices as a segment until SIGINT or SIGTERM, which withdraws it
    Target(TargetCommand),
    /// Make a secret by which a host or a target proves who it is, in the form DHHC-1:hh:base64:
    Secret(SecretArgs),
    /// Look at the segments that are published
    #[command(subcommand)]
    Segment(SegmentCommand),
}

/// The metadata service.
#[derive(Debug, Args)]
pub(crate) struct MetadataArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, env = "NVFERRY_METADATA_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    pub(crate) listen: String,
    /// The path of the metadata
    #[arg(long, env = "NVFERRY_METADATA_PATH", default_value = "/metadata", value_name = "PATH")]
    pub(crate) path: String,
    /// The file that keeps the entries over restarts [default: one for each --listen in the state directory, which
    /// is $STATE_DIRECTORY, or $XDG_STATE_HOME/nvferry, or ~/.local/state/nvferry; none for port 0]
    /// [env: NVFERRY_METADATA_STORE]
    // Read by hand: what the environment says must not stand in the way of --no-store.
    #[arg(long, value_name = "FILE")]
    pub(crate) store: Option<PathBuf>,
    /// Keep the entries in memory only
    #[arg(long, alias = "no_store", conflicts_with = "store")]
    pub(crate) no_store: bool,
    /// A file that holds the token (one line) that requests have to bear; without it everybody is answered
    /// [env: NVFERRY_METADATA_TOKEN is the token itself, NVFERRY_METADATA_TOKEN_FILE such a file]
    #[arg(long, alias = "token_file", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Serve with TLS, as the server of this certificate, with those between it and its authority (PEM)
    #[arg(long, alias = "tls_cert", env = "NVFERRY_METADATA_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, alias = "tls_key", env = "NVFERRY_METADATA_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
}

/// Serving, or looking what serving would do.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub(crate) enum TargetCommand {
    Serve(TargetArgs),
    Look(TargetLook),
}

// By hand: derived, the flags that serving needs would be asked for with `plan`, too.
impl FromArgMatches for TargetCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand() {
            Some(_) => TargetLook::from_arg_matches(matches).map(Self::Look),
            None => TargetArgs::from_arg_matches(matches).map(Self::Serve),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for TargetCommand {
    fn augment_args(command: clap::Command) -> clap::Command {
        let command = TargetLook::augment_subcommands(TargetArgs::augment_args(command));
        command
            .subcommand_required(false)
            .arg_required_else_help(false)
            .args_conflicts_with_subcommands(true)
            .subcommand_negates_reqs(true)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// Looking, without serving.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)]
pub(crate) enum TargetLook {
    /// Show the steps by which the kernel's target (nvmet) would be set up; change nothing
    Plan(PlanArgs),
    /// Show what a running target does now, file by file and host by host
    Status(StatusArgs),
}

/// What to look at.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Where the target tells its metrics: its --metrics-listen
    #[arg(
        long,
        alias = "metrics_listen",
        env = "NVFERRY_METRICS_LISTEN",
        default_value = "127.0.0.1:9420",
        value_name = "ADDRESS:PORT"
    )]
    pub(crate) metrics_listen: String,
    /// Seconds over which rates are measured; 0 shows none
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=3600), value_name = "SECONDS")]
    pub(crate) interval: u64,
    /// The status as JSON, at once
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to plan.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The name under which the segment is published; unique in the cluster, usually address:port of this node
    #[arg(long, alias = "server_name", env = "NVFERRY_SERVER_NAME", value_name = "NAME")]
    pub(crate) server_name: String,
    #[command(flatten)]
    pub(crate) offer: OfferArgs,
    /// The configfs tree to look at
    #[arg(long, alias = "configfs_root", default_value = "/sys/kernel/config", value_name = "DIR")]
    pub(crate) configfs_root: PathBuf,
    /// Where nvferry keeps the records of what it made in nvmet
    #[arg(long, alias = "record_dir", default_value = "/run/nvferry/nvmet", value_name = "DIR")]
    pub(crate) record_dir: PathBuf,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A target: what it serves, where, and under which name.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
    /// The name under which the segment is published; unique in the cluster, usually address:port of this node
    #[arg(long, alias = "server_name", env = "NVFERRY_SERVER_NAME", value_name = "NAME")]
    pub(crate) server_name: String,
    #[command(flatten)]
    pub(crate) offer: OfferArgs,
    /// How the target is realised: userspace, in this process, or nvmet, the kernel's, which needs root
    #[arg(
        long,
        alias = "target_driver",
        env = "NVFERRY_TARGET_DRIVER",
        default_value = "userspace",
        value_name = "DRIVER"
    )]
    pub(crate) target_driver: String,
    /// Tell Prometheus metrics there (GET /metrics), and what is going on (`nvferry target status`); port 0 takes a free one
    #[arg(long, alias = "metrics_listen", env = "NVFERRY_METRICS_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) metrics_listen: Option<String>,
}

/// What is offered, where, and under which name.
#[derive(Debug, Args)]
pub(crate) struct OfferArgs {
    /// A file or block device to serve; with a size, only that much from its start. May be repeated
    #[arg(long, value_name = "PATH[:SIZE]", required_unless_present_any = ["files", "files_from"])]
    pub(crate) file: Vec<FileArg>,
    /// Files or block devices to serve, separated by blanks
    #[arg(long, value_name = "\"PATH PATH\"")]
    pub(crate) files: Vec<String>,
    /// A file with one PATH or PATH:SIZE a line. On SIGHUP it is read again: what is new is served, what is no longer
    /// there is withdrawn
    #[arg(long, alias = "files_from", value_name = "LIST")]
    pub(crate) files_from: Option<PathBuf>,
    /// The fabric
    #[arg(long, env = "NVFERRY_TRTYPE", default_value = "tcp", value_name = "FABRIC")]
    pub(crate) trtype: String,
    /// The address family, ipv4 or ipv6 [default: as the address is written]
    #[arg(long, env = "NVFERRY_ADRFAM", value_name = "FAMILY")]
    pub(crate) adrfam: Option<String>,
    /// The address to listen on, by which hosts reach this machine
    #[arg(long, env = "NVFERRY_TRADDR", default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub(crate) traddr: String,
    /// The port to listen on; 0 takes a free one
    #[arg(long, env = "NVFERRY_TRSVCID", default_value = "4420", value_name = "PORT")]
    pub(crate) trsvcid: String,
    /// The NVMe subsystem's name [default: nqn.2016-06.io.mc:SERVER_NAME]
    #[arg(long, env = "NVFERRY_SUBNQN", value_name = "NQN")]
    pub(crate) subnqn: Option<String>,
    /// Whether the files are read and written past the page cache, on or off [default: on, or what
    /// MC_NVMEOF_GENERIC_DIRECT_IO says]
    #[arg(long, value_name = "ON|OFF")]
    pub(crate) direct: Option<String>,
    /// Serve files and devices even if they hold a file system, partitions or a mount: what they hold may be lost
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// The hosts that may connect, one a line: its NQN, then its secret and the target's own, where it shall prove
    /// itself (then no one else may read the file) [default: every host]
    #[arg(long, alias = "allowed_hosts", env = "NVFERRY_ALLOWED_HOSTS", value_name = "FILE")]
    pub(crate) allowed_hosts: Option<String>,
    /// With the kernel's target: bytes of data that a command's capsule may bring [default: the kernel's]
    #[arg(long, alias = "inline_data_bytes", value_name = "BYTES")]
    pub(crate) inline_data_bytes: Option<u32>,
    /// With the kernel's target: the most entries of a queue [default: the kernel's]
    #[arg(long, alias = "max_queue_entries", value_name = "N")]
    pub(crate) max_queue_entries: Option<u32>,
}

/// A new secret.
#[derive(Debug, Args)]
pub(crate) struct SecretArgs {
    /// The hash that binds the secret to its owner's name; `none` uses it as it is. It sets the length: 32, 48 or 64 bytes
    #[arg(long, value_parser = ["none", "sha256", "sha384", "sha512"], default_value = "sha256", value_name = "HASH")]
    pub(crate) hash: String,
    /// Write it to this file, which must not exist and which no one else may read, instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Looking at segments.
#[derive(Debug, Subcommand)]
pub(crate) enum SegmentCommand {
    /// List all segments; needs a metadata service that can list, as `nvferry metadata` and etcd can
    List {
        #[command(flatten)]
        service: ServiceArgs,
        /// As a JSON array, with each description as it was published
        #[arg(long)]
        json: bool,
    },
    /// Show one segment: where its target is, and which files it offers
    Show {
        /// The segment's name: the server name of the node that offers it
        name: String,
        #[command(flatten)]
        service: ServiceArgs,
        /// The JSON exactly as it was published
        #[arg(long)]
        json: bool,
        /// Don't ask the target what it does now
        #[arg(long, alias = "no_status")]
        no_status: bool,
    },
}

/// Which metadata service, and whose keys in it.
#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    /// The metadata service, such as http://127.0.0.1:8080/metadata, or etcd://host:port (built with the feature etcd)
    #[arg(long, alias = "metadata_server", env = "MC_METADATA_SERVER", value_name = "URL")]
    pub(crate) metadata_server: String,
    /// The cluster whose keys are used, where several share one service
    #[arg(long, alias = "cluster_id", env = "MC_METADATA_CLUSTER_ID", value_name = "ID")]
    pub(crate) cluster_id: Option<String>,
}
