"""One session: what can be measured, each thing at most once a round.

Every measurement returns a dict of values with the unit in their names. The same sizes, depths and warm-up for all;
server and client are two processes, pinned to one CPU each.
"""

import os
import tempfile
import time

from . import spdk
from .processes import (Failed, Server, Skip, commands_by_thread, connections_to, free_port, need, on_cpu, run,
                        run_json)

MEMORY_DIR = "/dev/shm"
FILE_BYTES = 256 << 20
SMALL_FILES = 256
WARM_UP_SECONDS = 0.3
SPIN_US = 1_000_000


def bytes_of(size):
    return int(size[:-1]) << {"k": 10, "M": 20}[size[-1]]


def make_file(path, size_bytes):
    """A file with data in every block that no file system or disk can leave out."""
    with open(path, "wb") as f:
        for _ in range(size_bytes >> 20):
            f.write(os.urandom(1 << 20))
        f.flush()
        os.fsync(f.fileno())


def check_all_used(what, counts, wanted):
    """Raises Failed unless `wanted` of these threads each had a tenth or more of what it would be if all had the same."""
    used = sum(1 for count in counts if count * wanted * 10 >= sum(counts) and count > 0)
    if used < wanted:
        said = ", ".join(f"{count:,}" for count in counts) or "none"
        raise Failed(f"{wanted} {what} are to be measured and {used} did the work (commands of each: {said})")


class Session:
    """Makes files and servers when they are first needed, and ends all of them in `close`."""

    def __init__(self, bin_dir, seconds, idle_seconds, disk_dir, disk_bytes):
        self.bench = os.path.join(bin_dir, "transfer-bench")
        self.nvferry = os.path.join(bin_dir, "nvferry")
        self.seconds, self.idle_seconds = seconds, idle_seconds
        self.disk_dir, self.disk_bytes = disk_dir, disk_bytes
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) < 2:
            raise Skip("two CPUs are needed: client and server are pinned to one each")
        self.server_cpu, self.client_cpu = cpus[:2]
        self.servers, self.dirs, self.made, self.round = {}, {}, {}, {}

    def close(self):
        for server in reversed(list(self.servers.values())):
            server.end()
        for made in self.dirs.values():
            made.cleanup()

    def measure(self, probe):
        """What this probe, a name and its arguments, gave in this round. A failure is remembered as well."""
        if probe not in self.round:
            name, *arguments = probe
            try:
                self.round[probe] = getattr(self, name)(*arguments)
            except (Skip, Failed) as error:
                self.round[probe] = error
        if isinstance(self.round[probe], Exception):
            raise self.round[probe]
        return self.round[probe]

    def next_round(self):
        # What cannot be measured here is not tried again.
        self.round = {probe: value for probe, value in self.round.items() if isinstance(value, Skip)}
        # A new target in each round, as the wire limit is a new process each time: what its memory happens to be decides
        # over as much as a tenth of the speed, and the median is over all of these.
        for key in [key for key in self.servers if key[0] == "target"]:
            self.servers.pop(key).end()

    # What is measured against, and with.

    def dir(self, where):
        if where not in self.dirs:
            self.dirs[where] = tempfile.TemporaryDirectory(dir=where, prefix="bench-peers-")
        return self.dirs[where].name

    def files(self, kind):
        """Paths, separated by blanks: one file in memory, `disk`, or N small ones that are as large together."""
        if kind not in self.made:
            if kind == "memory":
                made = {os.path.join(self.dir(MEMORY_DIR), "one"): FILE_BYTES}
            elif kind == "disk":
                made = {os.path.join(self.dir(self.disk_dir), "disk"): self.disk_bytes}
            else:
                dir_ = self.dir(MEMORY_DIR)
                made = {os.path.join(dir_, f"{kind}-{n}"): FILE_BYTES // SMALL_FILES for n in range(kind)}
            for path, size_bytes in made.items():
                make_file(path, size_bytes)
            self.made[kind] = " ".join(made)
        return self.made[kind]

    def server(self, key, start):
        if key not in self.servers:
            self.servers[key] = start()
        return self.servers[key]

    def metadata(self):
        port = free_port()
        start = lambda: Server([self.nvferry, "metadata", "--listen", f"127.0.0.1:{port}"], "http://")
        server = self.server("metadata", start)
        return f"http://127.0.0.1:{server.command[-1].rpartition(':')[2]}/metadata"

    def target(self, files="memory", direct="on", spin=False, both_cpus=False):
        """Our target, and the name of its segment."""
        metadata = self.metadata()
        cpus = [self.server_cpu, self.client_cpu] if both_cpus else [self.server_cpu]

        def start():
            port, status_port = free_port(), free_port()
            server = Server(on_cpu(cpus, [
                self.bench, "--mode=target", f"--metadata_server={metadata}", f"--local_server_name=127.0.0.1:{port}",
                *([f"--metrics_listen=127.0.0.1:{status_port}"] if both_cpus else []), f"--trsvcid={port}", f"--files={self.files(files)}", f"--direct={direct}",
                f"--spin_us={SPIN_US if spin else 0}"]), "erving segment")
            server.port, server.status_port = port, status_port
            return server

        return self.server(("target", files, direct, spin, both_cpus), start)

    def initiator(self, target, *flags):
        return [self.bench, "--mode=initiator", f"--metadata_server={self.metadata()}",
                f"--segment_id=127.0.0.1:{target.port}", f"--local_server_name=bench-peers-{os.getpid()}",
                f"--warmup={WARM_UP_SECONDS}", "--json", *flags]

    # Measurements.

    def wire_limit(self, direction, size, depth, idle="wait", source="file"):
        """The same bytes over one connection with no protocol."""
        # The very file that our target serves: how fast one can be copied depends on where its pages happen to be.
        file = [f"--file={self.files('memory')}"] if source == "file" else []
        got = run_json([
            self.bench, "wire-limit", direction, size, depth, idle, self.seconds, source, "--json", *file,
            f"--client_cpu={self.client_cpu}", f"--server_cpu={self.server_cpu}"], self.seconds)
        return {"gb_per_second": got["gb_per_second"], "iops": got["operations_per_second"],
                "latency_us": got["mean_latency_us"], "cpu_seconds_per_gb": got["cpu_seconds_per_gb"]}

    def ours(self, direction, size, depth, pattern="random", files="memory", direct="on", spin=False,
             digests="none", workers=1, threads=1, both_cpus=False):
        """Our target and our initiator, one queue pair for each worker."""
        target = self.target(files, direct, spin, both_cpus)
        cpus = [self.server_cpu, self.client_cpu] if both_cpus else [self.client_cpu]
        commands = commands_by_thread(target.status_port) if workers > 1 and both_cpus else []
        before = target.cpu_seconds()
        report = run_json(on_cpu(cpus, self.initiator(
            target, f"--operation={direction}", "--overwrite", f"--pattern={pattern}", f"--block_size={size}",
            f"--queue_depth={depth // threads}", f"--batch_size={depth // threads}", f"--duration={self.seconds}",
            f"--workers={workers}", f"--threads={threads}", f"--digests={digests}",
            f"--spin_us={SPIN_US if spin else 0}", "--latency")), self.seconds)
        got = report["results"]
        used = target.cpu_seconds() - before
        # The target's time includes the warm-up's; the initiator's does not.
        used *= got["duration_seconds"] / (got["duration_seconds"] + WARM_UP_SECONDS)
        if commands:
            # A case that says "two of each" and measures one of something says nothing.
            by_worker = [thread["paths"]["commands"] for thread in report.get("threads", {}).get("workers", [])]
            check_all_used("workers with a queue pair each", by_worker, workers)
            after = commands_by_thread(target.status_port)
            check_all_used("target threads", [now - then for now, then in zip(after, commands)], workers)
        return {"gb_per_second": got["bytes_per_second"] / 1e9, "iops": got["iops"],
                "latency_us": got["latency_us"]["mean"],
                "cpu_seconds_per_gb": (used + got["cpu_seconds"]) / (got["bytes"] / 1e9)}

    def fio(self, direction, size, depth, pattern, *engine):
        order = "rand" if pattern == "random" else ""
        got = run_json(on_cpu([self.client_cpu], [
            need("fio"), "--name=peer", "--output-format=json", *engine, f"--rw={order}{direction}", f"--bs={size}",
            f"--iodepth={depth}", "--time_based", f"--runtime={round(self.seconds * 1000)}ms",
            f"--ramp_time={round(WARM_UP_SECONDS * 1000)}ms", "--norandommap", "--randrepeat=0", "--refill_buffers=0",
            "--thread"]), self.seconds)["jobs"][0]
        if got["error"]:
            raise Failed(f"fio {' '.join(engine)}: {os.strerror(got['error'])}")
        side = got[direction]
        return {"gb_per_second": side["bw_bytes"] / 1e9, "iops": side["iops"],
                "latency_us": side["lat_ns"]["mean"] / 1e3}

    def fio_local(self, direction, size, depth, pattern="random", files="memory"):
        """fio with io_uring and Direct I/O on the file itself: no network."""
        engine = ["--ioengine=io_uring", "--direct=1", f"--filename={self.files(files)}"]
        return self.fio(direction, size, depth, pattern, *engine)

    def nbdkit(self, plugin, direction, size, depth, pattern="random"):
        """nbdkit over TCP, with fio's nbd engine, one connection. Its file is in the page cache."""
        fio = need("fio")
        if "nbd" not in run([fio, "--enghelp"], 1).split():
            raise Skip("this fio has no nbd engine")
        what = f"{FILE_BYTES}" if plugin == "memory" else self.files("memory")

        def start():
            port = free_port()
            server = Server(on_cpu([self.server_cpu], [
                need("nbdkit"), "--foreground", "--exit-with-parent", "--ipaddr=127.0.0.1", f"--port={port}", plugin,
                what]), port)
            server.uri = f"nbd://127.0.0.1:{port}"
            # So that every page is there.
            run([fio, "--name=fill", "--ioengine=nbd", f"--uri={server.uri}", "--rw=write", "--bs=1M",
                 f"--size={FILE_BYTES}", "--iodepth=4"], 10)
            return server

        server = self.server(("nbdkit", plugin), start)
        before = server.cpu_seconds()
        got = self.fio(direction, size, depth, pattern, "--ioengine=nbd", f"--uri={server.uri}")
        got["server_cpu_seconds"] = server.cpu_seconds() - before
        return got

    def iperf3(self, direction):
        """One TCP stream from memory to memory in pieces of 64 KiB: no requests, no files."""
        iperf3, port = need("iperf3"), free_port()
        server = Server(on_cpu([self.server_cpu], [iperf3, "-s", "-1", "-p", port, "--forceflush"]), "listening")
        try:
            seconds = max(1, round(self.seconds))
            got = run_json(on_cpu([self.client_cpu], [
                iperf3, "-c", "127.0.0.1", "-p", port, "-t", seconds, "-l", "64K", "-J",
                *(["-R"] if direction == "read" else [])]), seconds)["end"]
        finally:
            server.end()
        cpu = got["cpu_utilization_percent"]
        gb_per_second = got["sum_received"]["bits_per_second"] / 8e9
        return {"gb_per_second": gb_per_second,
                "cpu_seconds_per_gb": (cpu["host_total"] + cpu["remote_total"]) / 100 / gb_per_second}

    def spdk(self, direction, size, depth, pattern="random"):
        """SPDK's target with a malloc device and its own initiator, both polling."""
        target = self.server("spdk", lambda: spdk.start(self.server_cpu, FILE_BYTES))
        return spdk.measure(target, self.client_cpu, direction, bytes_of(size), depth, pattern, self.seconds)

    def engine_alone(self):
        """The engine on one CPU with a transport that moves nothing."""
        got = run_json(on_cpu([self.client_cpu], [
            self.bench, "--mode=loopback", "--protocol=null", f"--files={self.files('memory')}", "--block_size=64k",
            "--queue_depth=4096", "--batch_size=4096", f"--warmup={WARM_UP_SECONDS}", f"--duration={self.seconds}",
            "--threads=1", "--json"]), self.seconds)["results"]
        return {"requests_per_second": got["iops"]}

    def idle(self, files, workers, threads):
        """A target and an initiator that is connected, has used all its queue pairs, and has nothing to do."""
        # So much is outstanding that every worker gets some of it, and makes its connection.
        target = self.target(files)
        linger = self.idle_seconds + 2
        initiator = Server(on_cpu([self.client_cpu], self.initiator(
            target, "--block_size=64k", f"--workers={workers}", f"--threads={threads}", "--queue_depth=512",
            "--duration=0.5", f"--linger={linger}")), "Lingering")
        try:
            time.sleep(0.5)  # What the run left is over.
            before = [side.cpu_seconds() for side in (target, initiator)]
            time.sleep(self.idle_seconds)
            after = [side.cpu_seconds() for side in (target, initiator)]
            connections, resident_mib = connections_to(target.port), target.resident_mib()
            if connections < workers:
                raise Failed(f"the initiator made {connections} connections, not one for each of {workers} workers")
        finally:
            initiator.end()
        return {"cpu_seconds": sum(after) - sum(before), "resident_mib": resident_mib, "connections": connections}
