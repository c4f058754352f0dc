//! The measuring side of the wire limit.

use super::units::{Units, send_units};
use super::{Direction, REPLY_BYTES, REQUEST_BYTES, WireLimitArgs, pin_to};
use crate::cpu::cpu_seconds;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const WARM_UP: Duration = Duration::from_millis(300);

/// What was measured.
struct Measured {
    operations: u64,
    took: Duration,
    cpu_client_seconds: f64,
}

/// Starts the server, measures, prints.
pub(super) fn measure(args: &WireLimitArgs) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on 127.0.0.1")?;
    let address = listener.local_addr().context("cannot tell the listening port")?;
    let server = start_server(listener)?;
    let measured = (|| {
        pin_to(args.client_cpu)?;
        let socket = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        socket.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        let measured = exchange(args, &socket);
        let _ = socket.shutdown(Shutdown::Write);
        measured
    })();
    // The server ends when the connection does. Where it failed, that is the reason for what this side met, too.
    let output = server.wait_with_output().context("cannot wait for the server")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        match said.trim().strip_prefix("transfer-bench: ") {
            Some(why) => bail!("{why}"),
            None => bail!("the wire limit's server ended with {}: {}", output.status, said.trim()),
        }
    }
    let measured = measured?;
    let said = String::from_utf8_lossy(&output.stdout);
    let cpu_server_seconds: f64 = said.trim().parse().with_context(|| format!("the server said {said:?}"))?;
    print(args, &measured, cpu_server_seconds);
    Ok(())
}

/// Starts this program once more, as the server, with the listening socket as its standard input.
fn start_server(listener: TcpListener) -> Result<Child> {
    let program = std::env::current_exe().context("cannot tell this program's own path")?;
    Command::new(&program)
        .args(std::env::args_os().skip(1))
        .arg("--serve")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {} as the server", program.display()))
}

fn exchange(args: &WireLimitArgs, socket: &TcpStream) -> Result<Measured> {
    let writing = args.direction == Direction::Write;
    let (size, depth) = (args.size as usize, args.depth);
    let mut units = Units::new(depth, size, 2);
    let request = [0; REQUEST_BYTES];
    // The server fills its file before it accepts: the first reply tells that it is there.
    let mut ask = depth;
    let (mut operations, mut measuring_since) = (0u64, None);
    let (mut begin, mut cpu_before) = (None, 0.0);
    loop {
        let payloads = (0..ask).map(|i| if writing { &units.slots[i * size..(i + 1) * size] } else { &[][..] });
        send_units(socket, &request, payloads)?;
        let Some(whole) = units.take(socket, args.idle, REPLY_BYTES, if writing { 0 } else { size })? else {
            bail!("the server closed the connection");
        };
        ask = whole;
        operations += whole as u64;
        let now = Instant::now();
        let begin = *begin.get_or_insert(now);
        match measuring_since {
            None if now - begin >= WARM_UP => {
                (operations, measuring_since) = (0, Some(now));
                cpu_before = cpu_seconds();
            }
            Some(since) if (now - since).as_secs_f64() >= args.seconds => {
                let cpu_client_seconds = cpu_seconds() - cpu_before;
                return Ok(Measured { operations, took: now - since, cpu_client_seconds });
            }
            _ => {}
        }
    }
}

fn print(args: &WireLimitArgs, measured: &Measured, cpu_server_seconds: f64) {
    let seconds = measured.took.as_secs_f64();
    let per_second = measured.operations as f64 / seconds;
    let gb_per_second = per_second * args.size as f64 / 1e9;
    let mean_us = args.depth as f64 / per_second * 1e6;
    let cpu_client = measured.cpu_client_seconds / seconds * 100.0;
    // The server's time includes the warm-up's.
    let cpu_server = cpu_server_seconds / (seconds + WARM_UP.as_secs_f64()) * 100.0;
    let word = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    let (direction, idle, source) = (word(&args.direction), word(&args.idle), word(&args.source));
    if args.json {
        let report = json!({
            "direction": direction, "size_bytes": args.size, "depth": args.depth, "idle": idle, "source": source,
            "seconds": seconds, "operations": measured.operations, "operations_per_second": per_second,
            "gb_per_second": gb_per_second, "mean_latency_us": mean_us,
            "cpu_client_percent": cpu_client, "cpu_server_percent": cpu_server,
            "cpu_seconds_per_gb": (cpu_client + cpu_server) / 100.0 / gb_per_second,
        });
        println!("{report}");
    } else {
        println!(
            "{direction} {} depth {} {idle} {source}: {per_second:.0} ops/s {gb_per_second:.3} GB/s \
             mean {mean_us:.1} us cpu client {cpu_client:.0}% server {cpu_server:.0}%",
            args.size, args.depth
        );
    }
}
