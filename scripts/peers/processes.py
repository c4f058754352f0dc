"""Other programs: started, waited for, ended; what they cost; and where to get them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

DEADLINE_SECONDS = 30
PACKAGES = {"iperf3": "iperf3", "fio": "fio", "nbdkit": "nbdkit", "taskset": "util-linux"}


class Skip(Exception):
    """What was asked for cannot be measured here; the text says why."""


class Failed(Exception):
    """What was asked for went wrong; the text says how."""


def install_missing(say):
    """Installs what is missing with apt where that is possible."""
    missing = sorted({package for program, package in PACKAGES.items() if not shutil.which(program)})
    if not missing or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    say(f"Installing {' '.join(missing)} (--no-install does without)")
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", *missing]
    if subprocess.run(command, capture_output=True, env=environment).returncode != 0:
        subprocess.run(["apt-get", "update"], capture_output=True, env=environment)
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            say(f"apt-get could not install them: {last_line(done.stderr)}")


def need(program):
    """The program's path.

    Raises Skip where it is not installed."""
    found = shutil.which(program)
    if not found:
        package = PACKAGES.get(program, program)
        raise Skip(f"{program} is not installed (apt-get install {package})")
    return found


def on_cpu(cpus, command):
    """The command, kept on these CPUs."""
    return [need("taskset"), "-c", ",".join(map(str, cpus)), *map(str, command)]


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def run(command, timeout):
    """Runs to the end and returns the standard output."""
    command = [str(word) for word in command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout + DEADLINE_SECONDS,
                              stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command)} did not end") from None
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}: {last_line(done.stderr or done.stdout)}")
    return done.stdout


def run_json(command, timeout):
    """Runs to the end and reads the JSON object on the standard output. Some say a line or two before it."""
    said = run(command, timeout)
    try:
        return json.loads(said[max(said.find("{"), 0):])
    except ValueError:
        raise Failed(f"{' '.join(map(str, command))} printed no JSON but {last_line(said)}") from None


class Server:
    """A program that serves until it is told to end. Its output goes to a file, so that it never waits for us."""

    def __init__(self, command, ready):
        """Starts it and waits: for a line with `ready` in it, or, where that is a number, for that port."""
        self.command = [str(word) for word in command]
        self.log = tempfile.TemporaryFile(mode="w+")
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=subprocess.STDOUT,
                                        stdin=subprocess.DEVNULL)
        try:
            self.wait_for(ready)
        except BaseException:
            self.end()
            raise

    def said(self):
        self.log.flush()
        return os.pread(self.log.fileno(), 1 << 20, 0).decode(errors="replace")

    def is_ready(self, ready):
        if isinstance(ready, str):
            return ready in self.said()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", ready)) == 0

    def wait_for(self, ready):
        end = time.monotonic() + DEADLINE_SECONDS
        while not self.is_ready(ready):
            if self.process.poll() is not None:
                raise Failed(f"{' '.join(self.command)} ended with {self.process.returncode}: {last_line(self.said())}")
            if time.monotonic() > end:
                raise Failed(f"{' '.join(self.command)} was not ready in {DEADLINE_SECONDS} s: {last_line(self.said())}")
            time.sleep(0.02)

    def cpu_seconds(self):
        """CPU time of all its threads that still run, in nanosecond steps."""
        total = 0
        tasks = f"/proc/{self.process.pid}/task"
        for task in os.listdir(tasks):
            try:
                with open(f"{tasks}/{task}/schedstat") as f:
                    total += int(f.read().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                pass  # A thread that ended meanwhile.
        return total / 1e9

    def resident_mib(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            fields = dict(line.split(":", 1) for line in f)
        return int(fields["VmRSS"].split()[0]) / 1024

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def connections_to(port):
    """Established TCP connections that a listener on this port of 127.0.0.1 has."""
    here = f"0100007F:{port:04X}"
    with open("/proc/net/tcp") as f:
        rows = [line.split() for line in f.readlines()[1:]]
    return sum(1 for row in rows if row[1] == here and row[3] == "01")


def commands_by_thread(status_port):
    """I/O commands that each thread of the target took that tells its status there, since it was started."""
    with urllib.request.urlopen(f"http://127.0.0.1:{status_port}/status", timeout=DEADLINE_SECONDS) as answer:
        targets = json.load(answer)["targets"]
    return [thread["paths"]["commands"] for target in targets for thread in target["reactors"]]
