#!/usr/bin/env python3
"""A steady load that overwrites, for longer than every grace and lease in its way.

    python Tests/Cluster/steady_load.py [--minutes 15] [--clients 16] [--size 4k-4m] [--keys 500]
                                        [--reads 70] [--json FILE] [--set key=value ...]

Starts `apus up --separate --datanodes 5`, runs `apus bench mixed` on it, looks at the cluster every
second, and prints a line a minute: operations, errors, latency, memory, space, what is pending.
Exit 1 if an operation failed or a datanode was ever taken for stale or dead."""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from memory import pss  # noqa: E402
from rig import APUS, Cluster  # noqa: E402

MIB = 1 << 20
# A load removes what it wrote when its time is over.
LONGEST_END = 600


def memory_of(pid):
    """In bytes; 0 if the process is gone."""
    try:
        return pss(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def processor_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


class Sample:
    """What the cluster is like at a moment."""

    def __init__(self, cluster, since):
        self.at = time.time() - since
        nodes = json.loads(cluster.apus("admin", "datanode", "list", "--json").stdout)
        self.age = max(node["silentMilliseconds"] for node in nodes)
        self.pending = max(node["pendingDeletions"] for node in nodes)
        self.unreclaimed = max(node["unreclaimedBlocks"] for node in nodes)
        self.used = sum(node["used"] for node in nodes)
        containers = json.loads(cluster.apus("admin", "container", "list", "--json").stdout)
        self.containers = {}
        for container in containers:
            state = container["state"]
            self.containers[state] = self.containers.get(state, 0) + 1
        self.stored = sum(container["usedBytes"] for container in containers)
        self.memory = {path.stem: memory_of(int(path.read_text()))
                       for path in sorted(pathlib.Path(cluster.dir, "run").glob("*.pid"))}
        self.pss = sum(self.memory.values())


class SteadyLoad:
    """Runs the load on a cluster that is up, and keeps what was seen."""

    def __init__(self, cluster, seconds, clients=16, size="4k-4m", keys=500, reads=70):
        self.cluster = cluster
        self.seconds = seconds
        self.command = [
            "bench", "mixed", "--duration", f"{seconds}s", "--size", size, "--clients",
            str(clients), "--replace", str(keys), "--reads", str(reads), "--json"]
        self.samples = []

    def run(self, interval=1.0):
        """Returns itself when the load has ended."""
        process = subprocess.Popen(
            [APUS, *self.command], env=self.cluster.environment(), stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True)
        output = []
        reader = threading.Thread(target=lambda: output.append(process.stdout.read()))
        reader.start()
        start = time.time()
        try:
            while process.poll() is None and reader.is_alive():
                assert time.time() < start + self.seconds + LONGEST_END, "the load does not end"
                self.samples.append(Sample(self.cluster, start))
                time.sleep(interval)
        finally:
            process.kill()
            process.wait(timeout=60)
            reader.join()
        self.report = json.loads(output[0])
        return self

    @property
    def errors(self):
        return self.report["errors"]

    @property
    def operations(self):
        return sum(row["count"] for row in self.report["operations"])

    @property
    def unhealthy(self):
        """What SCM's log says of nodes that it took for stale or dead."""
        text = pathlib.Path(self.cluster.dir, "log", "scm1.log").read_text()
        return [line for line in text.splitlines() if line.endswith((" is stale", " is dead"))]

    def minute(self, first, last):
        """Operations a second, and the medians of the seconds' p50 and p99, in milliseconds."""
        rows = [row for row in self.report["series"]
                if first < row["second"] <= last and row["operations"] > 0]
        if not rows:
            return 0, 0, 0
        return (statistics.mean(row["operations"] for row in rows),
                statistics.median(row["p50"] for row in rows),
                statistics.median(row["p99"] for row in rows))

    def lines(self, step=60):
        yield ("seconds   ops/s  errors  p50 ms  p99 ms  PSS MiB  disks MiB  stored MiB  pending"
               "  unreclaimed  heartbeat ms  containers")
        end = len(self.report["series"])
        for first in range(0, end, step):
            last = min(first + step, end)
            rate, p50, p99 = self.minute(first, last)
            errors = sum(row["errors"] for row in self.report["series"][first:last])
            seen = [sample for sample in self.samples if first <= sample.at < last]
            if not seen:
                continue
            containers = " ".join(
                f"{state}:{count}" for state, count in sorted(seen[-1].containers.items()))
            yield (f"{last:7d} {rate:7.0f} {errors:7d} {p50:7.1f} {p99:7.1f}"
                   f" {seen[-1].pss / MIB:8.0f} {seen[-1].used / MIB:10.0f}"
                   f" {seen[-1].stored / MIB:11.0f} {max(s.pending for s in seen):8d}"
                   f" {max(s.unreclaimed for s in seen):12d} {max(s.age for s in seen):13d}"
                   f"  {containers}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--size", default="4k-4m")
    parser.add_argument("--keys", type=int, default=500)
    parser.add_argument("--reads", type=int, default=70)
    parser.add_argument("--members", type=int, default=1, help="of OM's and of SCM's group")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    options = [word for setting in arguments.set for word in ("--set", setting)]
    options += ["--oms", str(arguments.members), "--scms", str(arguments.members)]
    cluster = Cluster(options=options).start()
    try:
        load = SteadyLoad(cluster, int(arguments.minutes * 60), arguments.clients, arguments.size,
                          arguments.keys, arguments.reads).run()
        for line in load.lines():
            print(line)
        first, last = load.minute(0, 60)[2], load.minute(load.seconds - 60, load.seconds)[2]
        print(f"{load.operations} operations, {sum(e['count'] for e in load.errors)} errors"
              f" {load.errors[:3]}")
        print(f"p99 of the last minute / first: {last / max(first, 1e-9):.2f}")
        print(f"nodes not healthy: {load.unhealthy[:20]}")
        early = [sample for sample in load.samples if sample.at < 60]
        print("MiB, after a minute and at the end:", {
            role: (round(early[-1].memory[role] / MIB), round(bytes / MIB))
            for role, bytes in load.samples[-1].memory.items()})
        print("processor seconds:", {
            path.stem: round(processor_seconds(int(path.read_text())), 1)
            for path in sorted(pathlib.Path(cluster.dir, "run").glob("*.pid"))})
        if arguments.json:
            pathlib.Path(arguments.json).write_text(json.dumps(load.report))
        return 1 if load.errors or load.unhealthy else 0
    finally:
        cluster.destroy()


if __name__ == "__main__":
    sys.exit(main())
