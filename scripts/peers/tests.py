"""Tests of bench-peers that measure nothing: python3 scripts/peers/tests.py"""

import importlib.machinery
import importlib.util
import json
import os
import stat
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
SCRIPTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, SCRIPTS)

from peers import cases, processes, spdk  # noqa: E402
from peers.session import Session, bytes_of, check_all_used  # noqa: E402

PROGRAM = os.path.join(SCRIPTS, "bench-peers")
loader = importlib.machinery.SourceFileLoader("bench_peers", PROGRAM)
bench_peers = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_peers", loader))
loader.exec_module(bench_peers)


def run(*arguments):
    return subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True)


class Cases(unittest.TestCase):
    def test_names_are_unique_and_probes_are_real(self):
        names = [case.name for case in cases.every()]
        self.assertEqual(len(names), len(set(names)))
        for case in cases.every():
            for probe in (case.ours, case.reference):
                if not isinstance(probe, cases.Constant):
                    self.assertTrue(callable(getattr(Session, probe[0])), probe)
            self.assertIn(case.value, bench_peers.UNITS)
            self.assertTrue(case.reference_name)

    def test_goals_are_met_up_to_their_bound(self):
        most = cases.Case("a", "iops", (), (), at_most=1.25)
        least = cases.Case("a", "iops", (), (), at_least=0.95)
        self.assertEqual([most.is_met(ratio) for ratio in (1.2, 1.25, 1.26)], [True, True, False])
        self.assertEqual([least.is_met(ratio) for ratio in (0.94, 0.95, 1.0)], [False, True, True])
        self.assertIsNone(cases.Case("a", "iops", (), ()).is_met(1.0))

    def test_sizes(self):
        self.assertEqual([bytes_of(size) for size in ("4k", "64k", "1M")], [4096, 65536, 1 << 20])


class Threads(unittest.TestCase):
    def test_a_case_of_two_of_each_fails_where_one_does_the_work(self):
        for counts in ([500, 500], [950, 50], [500, 0, 500, 0]):
            check_all_used("workers", counts, 2)
        for counts, words in (([1000, 0], "2 workers are to be measured and 1 did the work .*1,000, 0"),
                              ([990, 10], "1 did the work"), ([0, 0], "0 did the work"), ([], "none")):
            with self.assertRaisesRegex(processes.Failed, words):
                check_all_used("workers", counts, 2)


class Rows(unittest.TestCase):
    CASE = cases.Case("a case", "gb_per_second", ("ours",), ("wire_limit", "read", "64k", 32), at_least=0.95)

    def row(self, rounds, skipped=None, failed=None):
        return bench_peers.result(self.CASE, rounds, skipped, failed, {"date": "today"})

    def test_the_ratio_is_the_median_of_the_rounds_and_can_be_computed_again(self):
        rounds = [{"ours": ours, "reference": 2.0, "ratio": ours / 2.0} for ours in (1.0, 3.0, 2.2)]
        row = self.row(rounds)
        self.assertEqual((row["ratio"], row["ratio_lowest"], row["ratio_highest"]), (1.1, 0.5, 1.5))
        self.assertEqual((row["ours"], row["reference_value"], row["met"]), (2.2, 2.0, True))
        self.assertEqual(row["rounds"], rounds)
        for key in ("name", "goal", "unit", "reference", "date", "conditions"):
            self.assertTrue(row[key] or key == "conditions", key)
        json.dumps(row)

    def test_what_failed_has_not_met_its_goal_and_what_was_skipped_is_not_judged(self):
        self.assertIs(self.row([], failed="it broke")["met"], False)
        self.assertIsNone(self.row([], skipped="not there")["met"])

    def test_what_was_not_measured_is_not_in_the_table(self):
        lines = []
        before, bench_peers.say = bench_peers.say, lines.append
        try:
            rounds = [{"ours": 1.0, "reference": 2.0, "ratio": 0.5}]
            bench_peers.table([self.row([]), self.row(rounds), self.row([], skipped="x"), self.row([], failed="x")])
        finally:
            bench_peers.say = before
        self.assertEqual(len(lines), 2, lines)
        self.assertTrue(lines[1].endswith("NO"), lines)

    def test_nothing_measured_against_nothing_is_no_ratio(self):
        self.assertIsNone(self.row([{"ours": 1.0, "reference": 0.0, "ratio": None}])["ratio"])


class Spdk(unittest.TestCase):
    SAID = """Device Information                      :       IOPS      MiB/s    Average        min        max
TCP  (addr:127.0.0.1 subnqn:x) NSID 1 from core  1:  250000.00     976.56     127.50      20.00    900.00
========================================================
Total                                   :  250000.00     976.56     127.50      20.00    900.00
"""

    def test_its_total_is_read(self):
        self.assertEqual(spdk.parse(self.SAID, 4096), {"gb_per_second": 1.024, "iops": 250000.0, "latency_us": 127.5})
        with self.assertRaises(processes.Failed):
            spdk.parse("nothing", 4096)

    def test_without_a_build_it_is_skipped(self):
        before = os.environ.pop("SPDK_DIR", None)
        try:
            with self.assertRaisesRegex(processes.Skip, "SPDK_DIR is not set"):
                spdk.program("nvmf_tgt")
            with tempfile.TemporaryDirectory() as base:
                os.environ["SPDK_DIR"] = base
                with self.assertRaisesRegex(processes.Skip, "no nvmf_tgt"):
                    spdk.program("nvmf_tgt")
                path = os.path.join(base, "nvmf_tgt")
                open(path, "w").close()
                os.chmod(path, stat.S_IRWXU)
                self.assertEqual(spdk.program("nvmf_tgt"), path)
        finally:
            os.environ.pop("SPDK_DIR", None)
            if before is not None:
                os.environ["SPDK_DIR"] = before


class Processes(unittest.TestCase):
    def test_what_a_program_says_before_its_json_is_passed_over(self):
        said = ["sh", "-c", "echo connected; echo '{\"a\": 1}'"]
        self.assertEqual(processes.run_json(said, 1), {"a": 1})
        with self.assertRaisesRegex(processes.Failed, "printed no JSON but connected"):
            processes.run_json(["echo", "connected"], 1)

    def test_a_program_that_fails_is_quoted(self):
        with self.assertRaisesRegex(processes.Failed, "ended with 3: why"):
            processes.run(["sh", "-c", "echo noise; echo why >&2; exit 3"], 1)

    def test_a_server_is_waited_for_and_ended(self):
        server = processes.Server(["sh", "-c", "echo up; exec sleep 60"], "up")
        self.assertGreater(server.resident_mib(), 0)
        server.end()
        self.assertIsNotNone(server.process.returncode)
        with self.assertRaisesRegex(processes.Failed, "ended with 1: broken"):
            processes.Server(["sh", "-c", "echo broken; exit 1"], "up")


class CommandLine(unittest.TestCase):
    def test_cases_are_listed_and_chosen(self):
        listed = run("--list")
        self.assertEqual((listed.returncode, len(listed.stdout.splitlines())), (0, len(cases.every())))
        some = run("--list", "--cases", "DISK")
        self.assertTrue(all("disk" in line for line in some.stdout.splitlines()), some.stdout)

    def test_what_makes_no_sense_is_refused(self):
        for arguments in (["--cases", "no such case"], ["--rounds", "0"], ["--seconds", "0"], ["--cases", "("],
                          ["--json", "/no/such/dir/x"], ["--chart", "x.bmp"], ["--nonsense"],
                          ["--bin-dir", "/no/such/dir"]):
            refused = run(*arguments)
            self.assertEqual(refused.returncode, 2, refused)
            self.assertNotIn("Traceback", refused.stderr)


if __name__ == "__main__":
    unittest.main()
