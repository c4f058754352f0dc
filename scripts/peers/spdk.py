"""SPDK as a peer, from a build that the reader has: SPDK_DIR names it. Nothing is downloaded."""

import json
import os
import re
import tempfile

from .processes import Failed, Server, Skip, free_port, on_cpu, run

NQN = "nqn.2016-06.io.spdk:bench-peers"


def program(name):
    """The path of one of SPDK's programs.

    Raises Skip where SPDK_DIR does not lead to it."""
    base = os.environ.get("SPDK_DIR")
    if not base:
        raise Skip("SPDK_DIR is not set: the directory of a build with nvmf_tgt and spdk_nvme_perf")
    for place in ("", "build/bin", "build/examples", "bin"):
        path = os.path.join(base, place, name)
        if os.access(path, os.X_OK):
            return path
    raise Skip(f"there is no {name} in {base} or its build/bin")


def memory_flags():
    """Hugepages where the machine has them, else ordinary memory."""
    with open("/proc/meminfo") as f:
        total = next((int(line.split()[1]) for line in f if line.startswith("HugePages_Total:")), 0)
    return [] if total else ["--no-huge", "-s", "512"]


def start(cpu, size_bytes):
    """The target with one malloc device, on one CPU."""
    nvmf_tgt = program("nvmf_tgt")
    program("spdk_nvme_perf")
    port = free_port()
    listen = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
    config = {"subsystems": [
        {"subsystem": "bdev", "config": [{"method": "bdev_malloc_create", "params": {
            "name": "Malloc0", "num_blocks": size_bytes // 512, "block_size": 512}}]},
        {"subsystem": "nvmf", "config": [
            {"method": "nvmf_create_transport", "params": {"trtype": "TCP"}},
            {"method": "nvmf_create_subsystem", "params": {"nqn": NQN, "allow_any_host": True}},
            {"method": "nvmf_subsystem_add_ns", "params": {"nqn": NQN, "namespace": {"bdev_name": "Malloc0"}}},
            {"method": "nvmf_subsystem_add_listener", "params": {"nqn": NQN, "listen_address": listen}},
        ]},
    ]}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        server = Server([nvmf_tgt, "-m", hex(1 << cpu), "-c", file.name, "-r", f"/tmp/bench-peers-{os.getpid()}.sock",
                         *memory_flags()], port)
    server.port = port
    return server


def measure(target, cpu, direction, size_bytes, depth, pattern, seconds):
    """What SPDK's own initiator gets. It counts whole seconds."""
    order = "rand" if pattern == "random" else ""
    said = run(on_cpu([cpu], [
        program("spdk_nvme_perf"), "-q", depth, "-o", size_bytes, "-w", f"{order}{direction}",
        "-t", max(1, round(seconds)), "-a", 1, "-c", hex(1 << cpu), *memory_flags(), "-r",
        f"trtype:TCP adrfam:IPv4 traddr:127.0.0.1 trsvcid:{target.port} subnqn:{NQN}"]), seconds + 5)
    return parse(said, size_bytes)


def parse(said, size_bytes):
    """The figures of the line `Total : IOPS MiB/s average min max`."""
    total = re.search(r"^Total\s*:\s*([\d.]+)\s+([\d.]+)\s+([\d.]+)", said, re.MULTILINE)
    if not total:
        raise Failed("spdk_nvme_perf printed no total")
    iops, _, latency_us = map(float, total.groups())
    return {"gb_per_second": iops * size_bytes / 1e9, "iops": iops, "latency_us": latency_us}
