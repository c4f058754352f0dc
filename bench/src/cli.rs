//! The command line: flags spelled as the reference's bench spells them, with underscores. Dashes do as well.

use crate::size::{RateUnit, parse_size};
use crate::wire_limit::WireLimitArgs;
use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Measures how fast files move over NVMe/TCP, and checks that they move unharmed.
///
/// Three modes: a `target` serves files until it is told to stop, an `initiator` reads or writes them from another
/// process or machine, and `loopback` does both in one process, with a temporary file and metadata of its own unless
/// told otherwise.
///
/// Exit status: 0 all went well; 1 a transfer, the set-up or the verification failed; 2 the command line is wrong;
/// 130 or 143 stopped by SIGINT or SIGTERM (a target that is told to stop that way exits with 0).
#[derive(Debug, Parser)]
#[command(name = "transfer-bench", version, args_conflicts_with_subcommands = true, args_override_self = true)]
pub(crate) struct Cli {
    /// Something else than a run of the bench.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// What to run.
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// What is not a run of the bench.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What any storage protocol over TCP could reach on this machine at best: the same bytes, no protocol
    #[command(name = "wire-limit", alias = "wire_limit")]
    WireLimit(WireLimitArgs),
    /// Runs the bench once for each combination of block sizes, queue depths, threads and drivers
    Sweep(crate::sweep::SweepArgs),
    /// Compares two JSON reports, case by case: exit status 1 where the new one lost too much
    Compare(crate::compare::CompareArgs),
    /// Draws a JSON report of `sweep` or of scripts/bench-peers as SVG
    Chart(crate::chart::ChartArgs),
}

/// The flags of a run.
#[derive(Debug, Clone, clap::Args)]
#[command(rename_all = "snake_case")]
#[group(skip)]
pub(crate) struct RunArgs {
    /// What this process is
    #[arg(long, value_enum, default_value_t = Mode::Loopback)]
    pub(crate) mode: Mode,
    /// The metadata service, such as http://127.0.0.1:8080/metadata; loopback runs one of its own without
    #[arg(long, alias = "metadata-server", value_name = "URL")]
    pub(crate) metadata_server: Option<String>,
    /// This engine's name, under which a target publishes its segment [default: made from the host's name]
    #[arg(long, alias = "local-server-name", value_name = "NAME")]
    pub(crate) local_server_name: Option<String>,
    /// The segment to read or write: the target's --local_server_name [default in loopback: the own name]
    #[arg(long, alias = "segment-id", value_name = "NAME")]
    pub(crate) segment_id: Option<String>,

    /// Which way the bytes go
    #[arg(long, value_enum, default_value_t = Direction::Read, help_heading = "Workload")]
    pub(crate) operation: Direction,
    /// Bytes of one request; suffixes k, M, G count by 1024
    #[arg(long, alias = "block-size", value_parser = block_size, default_value = "65536", value_name = "SIZE", help_heading = "Workload")]
    pub(crate) block_size: u64,
    /// Requests in one batch: what one submit call may hold, and what the result's batch count counts in
    #[arg(long, alias = "batch-size", value_parser = clap::value_parser!(u32).range(1..=1 << 20), default_value_t = 4096, value_name = "N", help_heading = "Workload")]
    pub(crate) batch_size: u32,
    /// Requests that each thread keeps outstanding [default: the batch size, at most 128 and at most 64 MiB]
    #[arg(long, alias = "queue-depth", value_parser = clap::value_parser!(u32).range(1..=1 << 16), value_name = "N", help_heading = "Workload")]
    pub(crate) queue_depth: Option<u32>,
    /// Threads that submit, each with a batch and memory of its own
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024), default_value_t = 1, value_name = "N", help_heading = "Workload")]
    pub(crate) threads: u32,
    /// The order of the blocks within each file
    #[arg(long, value_enum, default_value_t = Pattern::Random, help_heading = "Workload")]
    pub(crate) pattern: Pattern,
    /// Seconds to measure
    #[arg(long, value_parser = seconds_above_zero, default_value = "30", value_name = "SECONDS", help_heading = "Workload")]
    pub(crate) duration: Duration,
    /// Seconds to run before measuring
    #[arg(long, value_parser = seconds, default_value = "0.5", value_name = "SECONDS", help_heading = "Workload")]
    pub(crate) warmup: Duration,
    /// Seconds within which each request must end
    #[arg(long, value_parser = seconds_above_zero, default_value = "30", value_name = "SECONDS", help_heading = "Workload")]
    pub(crate) timeout: Duration,
    /// Seconds that each step of the set-up may take: publishing, finding a segment, connecting
    #[arg(long, alias = "control-timeout", value_parser = seconds_above_zero, default_value = "10", value_name = "SECONDS", help_heading = "Workload")]
    pub(crate) control_timeout: Duration,
    /// Use only this much of each file, from its start [default: all]
    #[arg(long, value_parser = parse_size, value_name = "SIZE", help_heading = "Workload")]
    pub(crate) range: Option<u64>,
    /// Fixes the random offsets and the verified pattern [default: another each time]
    #[arg(long, value_name = "NUMBER", help_heading = "Workload")]
    pub(crate) seed: Option<u64>,
    /// Write a pattern made from each position and the seed, read it back, count mismatches
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, hide_possible_values = true, hide_default_value = true, value_name = "BOOL", help_heading = "Workload")]
    pub(crate) verify: bool,
    /// Allow writing to files that are not the bench's own temporary one, and serving files and devices that hold
    /// something: what they hold is lost
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, hide_possible_values = true, hide_default_value = true, value_name = "BOOL", help_heading = "Workload")]
    pub(crate) overwrite: bool,

    /// Files or block devices to serve, separated by blanks [default in loopback: a temporary file]
    #[arg(long, value_name = "\"A B C\"", help_heading = "Target")]
    pub(crate) files: Vec<String>,
    /// Bytes of each file to serve [default: all; for the temporary file 1 GiB or half of what is free]
    #[arg(long, alias = "file-size", value_parser = parse_size, value_name = "SIZE", help_heading = "Target")]
    pub(crate) file_size: Option<u64>,
    /// The fabric
    #[arg(long, value_enum, default_value_t = Fabric::Tcp, help_heading = "Target")]
    pub(crate) trtype: Fabric,
    /// The address family [default: as the address is written]
    #[arg(long, value_enum, help_heading = "Target")]
    pub(crate) adrfam: Option<AddressFamily>,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS", help_heading = "Target")]
    pub(crate) traddr: String,
    /// The port to listen on [default: 4420; in loopback a free one]
    #[arg(long, value_name = "PORT", help_heading = "Target")]
    pub(crate) trsvcid: Option<u16>,
    /// How the target is realised
    #[arg(long, alias = "target-driver", value_enum, default_value_t = TargetDriver::Userspace, help_heading = "Target")]
    pub(crate) target_driver: TargetDriver,
    /// Whether the target's files are read and written past the page cache [default: on]
    #[arg(long, value_enum, help_heading = "Target")]
    pub(crate) direct: Option<Switch>,
    /// The hosts that may connect, one a line: NQN, secret, controller secret [default: every host]
    #[arg(long, alias = "allowed-hosts", value_name = "FILE", help_heading = "Target")]
    pub(crate) allowed_hosts: Option<String>,

    /// This host's name, as targets' lists of allowed hosts know it [default: made from --local_server_name]
    #[arg(long, value_name = "NQN", help_heading = "Initiator")]
    pub(crate) hostnqn: Option<String>,
    /// The file of the secret that this host proves to know [env: NVFERRY_DHCHAP_SECRET is the secret itself]
    #[arg(long, alias = "dhchap-secret-file", value_name = "FILE", help_heading = "Initiator")]
    pub(crate) dhchap_secret_file: Option<String>,
    /// The file of the secret that targets have to prove to know [env: NVFERRY_DHCHAP_CTRL_SECRET likewise]
    #[arg(long, alias = "dhchap-ctrl-secret-file", value_name = "FILE", help_heading = "Initiator")]
    pub(crate) dhchap_ctrl_secret_file: Option<String>,
    /// The transport: NVMe over Fabrics, or one that moves nothing and shows what the engine itself costs
    #[arg(long, value_enum, default_value_t = Protocol::Nvmeof, help_heading = "Initiator")]
    pub(crate) protocol: Protocol,
    /// How the initiator is realised
    #[arg(long, alias = "host-driver", value_enum, default_value_t = HostDriver::Userspace, help_heading = "Initiator")]
    pub(crate) host_driver: HostDriver,
    /// Checksums on the wire [default: none]
    #[arg(long, value_enum, help_heading = "Initiator")]
    pub(crate) digests: Option<Digests>,
    /// Worker threads, one queue pair each [default: 8, never more than useful on this machine]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64), value_name = "N", help_heading = "Initiator")]
    pub(crate) workers: Option<u32>,

    /// Microseconds that a thread looks for more before it sleeps, on either side; 0 never spins [default: 0]
    #[arg(long, alias = "spin-us", value_parser = clap::value_parser!(u32).range(0..=1_000_000), value_name = "MICROSECONDS", help_heading = "Initiator")]
    pub(crate) spin_us: Option<u32>,

    /// Seconds to stay connected after the run with nothing to do, and to tell the CPU time that this takes
    #[arg(long, value_parser = seconds, value_name = "SECONDS", help_heading = "Workload")]
    pub(crate) linger: Option<Duration>,

    /// On a terminal, show the throughput of each file while it runs
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, hide_possible_values = true, hide_default_value = true, value_name = "BOOL", help_heading = "Report")]
    pub(crate) live: bool,
    /// The unit of throughput, a second
    #[arg(long, alias = "report-unit", default_value = "GB", value_name = "UNIT", help_heading = "Report")]
    pub(crate) report_unit: RateUnit,
    /// Digits after the point in the report
    #[arg(long, alias = "report-precision", value_parser = clap::value_parser!(u8).range(0..=9), default_value_t = 2, value_name = "DIGITS", help_heading = "Report")]
    pub(crate) report_precision: u8,
    /// Tell Prometheus metrics of this process there, at GET /metrics; port 0 takes a free one [default: nowhere]
    #[arg(long, alias = "metrics-listen", value_name = "ADDRESS:PORT", help_heading = "Report")]
    pub(crate) metrics_listen: Option<String>,
    /// Report latencies: p50, p90, p99, p99.9, highest and mean
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, hide_possible_values = true, hide_default_value = true, value_name = "BOOL", help_heading = "Report")]
    pub(crate) latency: bool,
    /// Write a JSON report to FILE, or to standard output (the text then goes to standard error)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "-", value_name = "FILE", help_heading = "Report")]
    pub(crate) json: Option<PathBuf>,
}

impl RunArgs {
    /// The paths in all `--files`, in order.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().flat_map(|list| list.split_whitespace()).map(PathBuf::from).collect()
    }

    /// Whether the JSON report takes standard output.
    pub(crate) fn json_on_stdout(&self) -> bool {
        self.json.as_ref().is_some_and(|path| path.as_os_str() == "-")
    }
}

/// What this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Serves files until SIGINT or SIGTERM
    Target,
    /// Reads or writes a target's files
    Initiator,
    /// Both in one process
    Loopback,
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Direction {
    /// From the target's files
    Read,
    /// Into the target's files
    Write,
}

/// The order of the blocks within each file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pattern {
    /// Every block equally likely
    Random,
    /// One after the other, then from the start again
    Sequential,
}

/// The transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// NVMe over Fabrics
    #[value(name = "nvmeof_generic")]
    Nvmeof,
    /// Moves nothing
    Null,
}

/// The fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fabric {
    /// NVMe/TCP
    Tcp,
    /// NVMe/RDMA, with the kernel's drivers
    Rdma,
    /// The kernel's loopback, with the kernel's drivers
    Loop,
}

/// The address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AddressFamily {
    /// Such as 127.0.0.1
    Ipv4,
    /// Such as ::1
    Ipv6,
}

/// How the target is realised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TargetDriver {
    /// In this process
    Userspace,
    /// The kernel's, configured through configfs; needs root
    Nvmet,
}

/// How the initiator is realised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HostDriver {
    /// What fits the target: userspace for tcp, kernel for rdma
    Auto,
    /// NVMe/TCP in this process
    Userspace,
    /// The kernel's NVMe host (needs root, and a build with --features libnvme)
    Kernel,
    /// Opens the target's file itself, on the same machine
    Local,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// On
    #[value(aliases = ["1", "true", "yes"])]
    On,
    /// Off
    #[value(aliases = ["0", "false", "no"])]
    Off,
}

/// Checksums on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Digests {
    /// None
    None,
    /// Of every header
    Header,
    /// Of the data
    Data,
    /// Of both
    Both,
}

fn block_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("a block of 0 bytes cannot be transferred".into()),
        bytes if bytes > 1 << 30 => Err("a block can have at most 1 GiB".into()),
        bytes => Ok(bytes),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    if !(0.0..=1e8).contains(&seconds) {
        return Err(format!("{text} seconds is not a time from 0 to 100000000"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

pub(crate) fn seconds_above_zero(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("must be above 0 seconds".into()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Cli {
        Cli::try_parse_from(std::iter::once("transfer-bench").chain(line.split(' '))).unwrap()
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_with_underscores_has_an_alias_with_dashes() {
        let command = Cli::command();
        let with_underscores = command.get_arguments().filter(|arg| arg.get_long().is_some_and(|it| it.contains('_')));
        let mut seen = 0;
        for arg in with_underscores {
            let long = arg.get_long().unwrap();
            let aliases = arg.get_all_aliases().unwrap_or_default();
            assert!(aliases.contains(&long.replace('_', "-").as_str()), "--{long} has only {aliases:?}");
            seen += 1;
        }
        assert!(seen >= 10, "only {seen} flags with underscores");
    }

    #[test]
    fn the_references_flags_are_taken_as_written_there() {
        let cli = parse(
            "--local_server_name=127.0.0.1:8081 --metadata_server=http://127.0.0.1:8080/metadata --mode=loopback \
             --operation=write --segment_id=127.0.0.1:8081 --batch_size=4096 --block_size=65536 --duration=30 \
             --threads=1 --report_unit=GB --report_precision=2 --trtype=tcp --adrfam=ipv4 --traddr=127.0.0.1 \
             --trsvcid=4420 --files=/a",
        );
        assert_eq!(cli.run.mode, Mode::Loopback);
        assert_eq!(cli.run.operation, Direction::Write);
        assert_eq!(cli.run.block_size, 65536);
        assert_eq!(cli.run.trsvcid, Some(4420));
        assert_eq!(cli.run.report_unit.to_string(), "GB");
    }

    #[test]
    fn files_are_separated_by_blanks() {
        let cli = Cli::try_parse_from(["transfer-bench", "--files=/a  /b", "--files", "/c"]).unwrap();
        assert_eq!(cli.run.paths(), ["/a", "/b", "/c"].map(PathBuf::from));
    }

    #[test]
    fn switches_take_a_value_or_none() {
        assert!(parse("--verify").run.verify);
        assert!(parse("--verify=true").run.verify);
        assert!(!parse("--verify=false").run.verify);
        assert_eq!(parse("--json").run.json, Some(PathBuf::from("-")));
        assert_eq!(parse("--json=out.json").run.json, Some(PathBuf::from("out.json")));
        assert_eq!(parse("--direct=0").run.direct, Some(Switch::Off));
    }

    #[test]
    fn of_a_flag_given_twice_the_last_counts() {
        assert_eq!(parse("--threads=2 --threads=3").run.threads, 3);
        assert!(!parse("--verify --verify=false").run.verify);
    }

    #[test]
    fn dashes_do_as_well() {
        let cli = parse("--block-size=64k --local-server-name=x --report-unit=MiB --queue-depth 4");
        assert_eq!(cli.run.block_size, 65536);
        assert_eq!(cli.run.local_server_name.as_deref(), Some("x"));
        assert_eq!(cli.run.queue_depth, Some(4));
    }
}
