#!/usr/bin/env python3
"""What one slow datanode costs clients, against the same cluster without it, in the same minutes.

    python Tests/Cluster/slow_test.py [--datanodes 10] [--replication rs-6-3-1024k] [--rounds 3]
        [--seconds 20] [--clients 8] [--size 1m] [--reads 50] [--stop 500] [--run 5] [--hung]
        [--report] [--set key=value ...]

Rounds of `apus bench mixed`, healthy and slow by turns: in a slow one a datanode is stopped for
`--stop` milliseconds and let run for `--run`, again and again (`--hung`: stopped for good). Prints
throughput, p50 and p99 of each round and the medians' ratios. Exit 1 if an operation failed, or,
without `--report`, if a ratio is worse than what is promised: p99 1.5, throughput 0.9."""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from background import Background
from rig import Cluster  # noqa: E402

# The largest ratio of latencies, the smallest of throughput.
P99, THROUGHPUT = 1.5, 0.9


class Pulses(Background):
    """Stops a process for `stop` milliseconds and lets it run for `run`, until left; for good while
    it is entered if `run` is 0."""

    def __init__(self, pid, stop, run):
        super().__init__()
        self.pid, self.stop, self.run = pid, stop / 1000, run / 1000

    def work(self):
        while not self.ended.is_set():
            os.kill(self.pid, signal.SIGSTOP)
            if self.run == 0:
                self.ended.wait()
                return
            self.ended.wait(self.stop)
            os.kill(self.pid, signal.SIGCONT)
            self.ended.wait(self.run)

    def __exit__(self, *_):
        super().__exit__()
        os.kill(self.pid, signal.SIGCONT)


class Sight(Background):
    """What SCM says of slow disks, each second until left: after how many seconds which state was
    seen first, by datanode."""

    def __init__(self, cluster):
        super().__init__()
        self.cluster, self.first = cluster, {}
        files = pathlib.Path(cluster.dir).glob("dn*/**/datanode.id")
        self.names = {file.read_text().strip(): file.relative_to(cluster.dir).parts[0]
                      for file in files}

    def work(self):
        start = time.monotonic()
        while not self.ended.is_set():
            found = self.cluster.apus("admin", "datanode", "list", "--json", check=False)
            for node in json.loads(found.stdout) if found.returncode == 0 else []:
                for disk in node["slowDisks"]:
                    self.first.setdefault((self.names.get(node["id"]), disk["state"]),
                                          round(time.monotonic() - start, 1))
            self.ended.wait(1)


def load(cluster, options):
    """One round of the load; its report."""
    command = ["bench", "mixed", "--duration", f"{options.seconds}s", "--size", options.size,
               "--clients", str(options.clients), "--replace", "400", "--reads",
               str(options.reads), "--objects", "64", "--json"]
    found = cluster.apus(*command, check=False)
    try:
        return json.loads(found.stdout)
    except json.JSONDecodeError:
        raise AssertionError(f"the load ended with {found.returncode}: {found.stderr}") from None


def figures(report):
    """By operation: operations a second, p50 and p99 in milliseconds."""
    return {row["name"]: (row["perSecond"], row["latencyMilliseconds"]["p50"],
                          row["latencyMilliseconds"]["p99"])
            for row in report["operations"]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--datanodes", type=int, default=10)
    parser.add_argument("--replication", default="rs-6-3-1024k")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--size", default="1m")
    parser.add_argument("--reads", type=int, default=50)
    parser.add_argument("--stop", type=float, default=500)
    parser.add_argument("--run", type=float, default=5)
    parser.add_argument("--hung", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()

    extra = ["--replication", options.replication]
    for setting in options.set:
        extra += ["--set", setting]
    cluster = Cluster(datanodes=options.datanodes, options=extra).start()
    rounds = {"healthy": [], "slow": []}
    errors = 0
    try:
        load(cluster, options)
        for _ in range(options.rounds):
            for kind in rounds:
                if kind == "slow":
                    pulses = Pulses(
                        cluster.pid("dn2"), options.stop, 0 if options.hung else options.run)
                    with pulses, Sight(cluster) as sight:
                        report = load(cluster, options)
                else:
                    with Sight(cluster) as sight:
                        report = load(cluster, options)
                for state in ["observed", "avoided", "spared"]:
                    seen = [f"{name} {seconds} s" for (name, found), seconds
                            in sorted(sight.first.items(), key=lambda one: one[1])
                            if found == state]
                    if seen:
                        print(f"{kind:8} SCM: {state} after: {', '.join(seen)}", flush=True)
                errors += sum(error["count"] for error in report["errors"])
                rounds[kind].append(figures(report))
                for name, (rate, p50, p99) in sorted(rounds[kind][-1].items()):
                    print(f"{kind:8} {name:6} {rate:8.1f}/s  p50 {p50:8.1f} ms  p99 {p99:8.1f} ms",
                          flush=True)
    finally:
        cluster.destroy()
    failed = 1 if errors else 0
    passed = 1 - failed
    print(f"errors {errors}")
    for name in sorted(rounds["slow"][0]):
        def middle(kind, field, name=name):
            return statistics.median(row[name][field] for row in rounds[kind])
        rate = middle("slow", 0) / middle("healthy", 0)
        p50 = middle("slow", 1) / middle("healthy", 1)
        p99 = middle("slow", 2) / middle("healthy", 2)
        is_good = p99 <= P99 and rate >= THROUGHPUT
        print(f"{'ok' if is_good else 'NOT OK':6} {name}: throughput {rate:.2f}x, p50 {p50:.2f}x, "
              f"p99 {p99:.2f}x of healthy")
        if is_good or options.report:
            passed += 1
        else:
            failed += 1
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
