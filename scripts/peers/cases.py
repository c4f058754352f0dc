"""The cases: what is measured, beside what, and how good it must be."""

from dataclasses import dataclass
from typing import Optional

NO_GOAL = "none: for comparison"


@dataclass(frozen=True)
class Constant:
    """A reference that is not measured."""

    name: str
    value: float


@dataclass(frozen=True)
class Case:
    name: str
    # The value's name in what the probes return; it says the unit.
    value: str
    ours: tuple
    # Another probe, or a constant.
    reference: object
    # The ratio of ours to the reference must be `at most` or `at least` this; None is for comparison only.
    at_most: Optional[float] = None
    at_least: Optional[float] = None
    conditions: str = ""
    # What the reference is called where its probe does not say enough.
    called: str = ""

    @property
    def goal(self):
        if self.at_most is not None:
            return f"at most {self.at_most:g} x"
        return f"at least {self.at_least:g} x" if self.at_least is not None else NO_GOAL

    def is_met(self, ratio):
        """Whether the goal is reached; None where there is none."""
        if self.at_most is not None:
            return ratio <= self.at_most
        return ratio >= self.at_least if self.at_least is not None else None

    @property
    def reference_name(self):
        if isinstance(self.reference, Constant):
            return self.reference.name
        return self.called or name_of(self.reference)


def name_of(probe):
    """A measurement in words."""
    kind, *arguments = probe
    if kind == "nbdkit":
        return f"nbdkit {arguments[0]}, fio"
    if kind == "ours":
        return "nvferry"
    names = {"wire_limit": "wire limit", "fio_local": "fio, local file", "iperf3": "iperf3", "spdk": "SPDK malloc"}
    if kind == "wire_limit":
        rest = arguments[3:]
        return names[kind] + (f" ({', '.join(rest)})" if rest else "")
    return names[kind]


def our(direction, size, depth, pattern="random", files="memory", direct="on", spin=False, digests="none", workers=1,
        threads=1, both_cpus=False):
    return ("ours", direction, size, depth, pattern, files, direct, spin, digests, workers, threads, both_cpus)


def limit(direction, size, depth, *rest):
    return ("wire_limit", direction, size, depth, *rest)


MEMORY = "Direct I/O on a file in /dev/shm, one queue pair, spinning off"
BUFFERED = "a file in /dev/shm read through the page cache, one queue pair, spinning off"


def goals():
    """The table of goals."""
    yield Case("4k read depth 1, spinning off: latency", "latency_us", our("read", "4k", 1), limit("read", "4k", 1),
               at_most=1.25, conditions=MEMORY)
    yield Case("4k read depth 1, spinning on: latency", "latency_us", our("read", "4k", 1, spin=True),
               limit("read", "4k", 1, "spin"), at_most=1.3, conditions=MEMORY.replace("off", "on, both sides"))
    for direction, size, depth, pattern, at_least in [
            ("read", "4k", 32, "random", 0.85), ("write", "4k", 32, "random", 0.8), ("read", "4k", 128, "random", 0.9),
            ("read", "64k", 32, "random", 0.95), ("write", "64k", 32, "random", 0.95),
            ("read", "1M", 8, "sequential", 0.95), ("write", "1M", 8, "sequential", 0.95)]:
        value = "iops" if size == "4k" else "gb_per_second"
        yield Case(f"{size} {pattern} {direction} depth {depth}", value, our(direction, size, depth, pattern),
                   limit(direction, size, depth), at_least=at_least, conditions=MEMORY)
    yield Case("64k random read depth 32, page cache", "gb_per_second", our("read", "64k", 32, direct="off"),
               limit("read", "64k", 32), at_least=1.2, conditions=BUFFERED)
    for size, at_most in [("64k", 1.15), ("4k", 1.3)]:
        for direction in ("read", "write"):
            yield Case(f"{size} {direction} depth 32: CPU, both sides", "cpu_seconds_per_gb",
                       our(direction, size, 32), limit(direction, size, 32), at_most=at_most, conditions=MEMORY)
    for size, value in [("4k", "iops"), ("64k", "gb_per_second")]:
        yield Case(f"{size} random read depth 64, two of each", value,
                   our("read", size, 64, workers=2, threads=2, both_cpus=True), our("read", size, 64), at_least=1.0,
                   called="nvferry, one of each",
                   conditions="two workers, queue pairs, target threads and submitting threads on two CPUs, against one "
                              "of each on one CPU each; Direct I/O on a file in /dev/shm")
    for size, depth, pattern in [("4k", 32, "random"), ("64k", 32, "random"), ("1M", 8, "sequential")]:
        for direction in ("read", "write"):
            yield Case(f"disk: {size} {pattern} {direction} depth {depth}",
                       "iops" if size == "4k" else "gb_per_second",
                       our(direction, size, depth, pattern, files="disk"),
                       ("fio_local", direction, size, depth, pattern, "disk"), at_least=0.95,
                       conditions="Direct I/O on a file on the disk, one queue pair; fio: io_uring, Direct I/O, the same "
                                  "file, no network")
    yield Case("idle, 8 workers, 64 files: CPU time", "cpu_seconds", ("idle", 64, 8, 2),
               Constant("one clock tick of 10 ms", 0.01), at_most=1.0,
               conditions="target and initiator together, connected, nothing to do, in 10 s (--quick: 3 s)")
    yield Case("64k random read depth 32, data digest", "gb_per_second", our("read", "64k", 32, digests="data"),
               our("read", "64k", 32), at_least=0.85, conditions=MEMORY, called="nvferry, digest off")
    yield Case("engine alone, 64k requests, batches of 4096", "requests_per_second", ("engine_alone",),
               Constant("the goal itself", 5e6), at_least=1.0, conditions="null transport, one thread, one CPU")
    yield Case("64k random read depth 128 over 256 files, 8 workers", "gb_per_second",
               our("read", "64k", 128, files=256, workers=8), our("read", "64k", 128, workers=8), at_least=0.95,
               called="nvferry, one file, 8 workers",
               conditions="256 files of 1 MiB against one of 256 MiB, Direct I/O in /dev/shm, initiator on one CPU")
    yield Case("idle target with 64 connections: memory", "resident_mib", ("idle", "memory", 64, 8),
               Constant("the goal itself", 64.0), at_most=1.0, conditions="resident memory of the target process in MiB")


def comparisons():
    """What else there is, for comparison."""
    for direction in ("read", "write"):
        yield Case(f"64k {direction} depth 32 beside a plain TCP stream", "gb_per_second", our(direction, "64k", 32),
                   ("iperf3", direction), conditions="iperf3 moves from memory to memory, without requests or files")
    for direction, size, depth, pattern, value in [
            ("read", "4k", 1, "random", "latency_us"), ("read", "4k", 32, "random", "iops"),
            ("write", "4k", 32, "random", "iops"), ("read", "64k", 32, "random", "gb_per_second"),
            ("write", "64k", 32, "random", "gb_per_second"), ("read", "1M", 8, "sequential", "gb_per_second"),
            ("write", "1M", 8, "sequential", "gb_per_second")]:
        for peer, conditions in [
                (("nbdkit", "memory"), "nbdkit's memory plugin over TCP, fio's nbd engine, one connection"),
                (("nbdkit", "file"), "nbdkit's file plugin on the same file in /dev/shm, over TCP, fio's nbd engine, one "
                                     "connection, page cache"),
                (("spdk",), "SPDK's nvmf_tgt with a malloc device and spdk_nvme_perf, both polling all the time"),
                (("fio_local",), "fio on the same file in /dev/shm: io_uring, Direct I/O, no network")]:
            probe = (*peer, direction, size, depth, pattern)
            what = "latency" if value == "latency_us" else pattern
            # SPDK never sleeps; beside it ours may spin as well.
            spin = peer == ("spdk",) and value == "latency_us"
            yield Case(f"{size} {direction} depth {depth}, {what}, beside {name_of(probe)}", value,
                       our(direction, size, depth, pattern, spin=spin), probe, conditions=conditions)


def every():
    return [*goals(), *comparisons()]
