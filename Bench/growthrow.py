"""Row 28: an OM with many keys that grows from one to three members while it serves.

As a program it does the same with other sizes:

    python3 Bench/growthrow.py --keys 10000000 [--rate 400]
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

from measure import GIB, make_row
from omrow import BUCKET, PREFIX, OMRows
from peers import free_port
from s3rows import SYNC, Apus  # puts Tests/Cluster on the path
from background import Background  # noqa: E402

MIB = 1 << 20


class Memory(Background):
    """The largest resident set of processes, without the pages of files, looked at twice a second."""

    def __init__(self, pids):
        super().__init__()
        self.pids, self.largest = pids, dict.fromkeys(pids, 0)

    def work(self):
        while not self.ended.wait(0.5):
            for name, pid in self.pids.items():
                text = pathlib.Path(f"/proc/{pid}/status").read_text()
                found = int(re.search(r"^RssAnon:\s+(\d+)", text, re.MULTILINE).group(1)) << 10
                self.largest[name] = max(self.largest[name], found)


class GrowthRow:
    """A load of opens and commits at a fixed rate, so that latency counts from when a key was due;
    `apus admin om add` twice meanwhile. Its p99 before, while the members are given the tables, and
    afterwards."""

    numbers = {28}
    title = "an OM that grows from one to three under load"

    def __init__(self, wanted, quick, keys=None, rate=400):
        self.keys = keys or (1_000_000 if quick else 10_000_000)
        self.rate = rate
        self.seconds = 15 if quick else 30
        self.apus = None
        self.children = []
        self.found = {"before": [], "during": []}
        self.detail = {}

    def prepare(self):
        temporary = os.environ.get("APUS_TEST_TMP", "/tmp")
        # The tables three times, and once more for a snapshot at each end.
        wanted = 1000 * self.keys
        if shutil.disk_usage(temporary).free < wanted:
            raise RuntimeError(f"{wanted / GIB:.0f} GiB of disk are wanted")
        self.apus = Apus()
        self.cluster = self.apus.cluster
        names = OMRows({17}, True)
        names.clusters["grown"] = self.apus
        names.load("grown", 500)
        names.fill(self.cluster, self.keys)
        # More of the log than is kept (32 MiB): who joins is given a snapshot, and not only the
        # entries, which know nothing of the rows that were filled in.
        made = subprocess.run(
            [os.environ["APUS_BINARY"], "bench", "om", "--dir", self.cluster.dir,
             "--bucket", BUCKET, "--prefix", PREFIX + "z" * 850, "--clients", "256",
             "--count", "25000", "--length", "4096", "--scatter", "--keep"],
            capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise RuntimeError(f"apus bench om: {made.stderr[-300:]}")
        time.sleep(3)

    # Load

    def begin_load(self, seconds):
        return subprocess.Popen(
            [os.environ["APUS_BINARY"], "bench", "om", "--dir", self.cluster.dir,
             "--bucket", BUCKET, "--prefix", PREFIX, "--clients", "64", "--rate", str(self.rate),
             "--duration", f"{seconds}s", "--length", "4096", "--scatter", "--keep", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end_load(self, load, what):
        out, error = load.communicate(timeout=120)
        try:
            report = json.loads(out)
        except json.JSONDecodeError as failure:
            raise RuntimeError(f"apus bench om, {what}: {error[-300:]}") from failure
        found = report["operations"][0]
        if report["errors"]:
            raise RuntimeError(f"apus bench om, {what}: {report['errors']}")
        latency = found["latencyMilliseconds"]
        # Seconds in which next to nothing was made, or that took long.
        worst = max((second["p99"] for second in report["series"] if second["operations"]),
                    default=0)
        text = (f"  {what}: {found['count']} keys, {found['perSecond']:.0f}/s; latency p50 "
                f"{latency['p50']:.1f} ms, p99 {latency['p99']:.1f}, longest {latency['max']:.0f}; "
                f"worst second's p99 {worst:.1f}")
        print(text, flush=True)
        self.detail[what] = dict(latency, worst_second=worst)
        return latency["p99"]

    def measured(self, what):
        return self.end_load(self.begin_load(self.seconds), what)

    # Members

    def start_member(self, number):
        """A process with an empty directory, which waits to be added; its address."""
        folder = pathlib.Path(self.cluster.dir)
        settings = json.loads((folder / "etc/om1.json").read_text())
        port = free_port()
        first = f"om1=127.0.0.1:{settings['om']['port']}"
        settings["om"].update({
            "id": f"om{number}", "port": port, "directory": str(folder / f"om{number}"),
            "addresses": [first, f"om{number}=127.0.0.1:{port}"]})
        settings["node"]["name"] = f"om{number}"
        path = folder / f"etc/om{number}.json"
        path.write_text(json.dumps(settings))
        with open(folder / f"log/om{number}.log", "w") as log:
            child = subprocess.Popen([os.environ["APUS_BINARY"], "om", "--config", str(path)],
                                     stdout=log, stderr=log)
        self.children.append(child)
        time.sleep(1)
        return child, f"127.0.0.1:{port}"

    def add(self, number):
        """Adds a member under load; what it took, and how it was told."""
        child, address = self.start_member(number)
        load = self.begin_load(3600)
        time.sleep(2)
        pids = {"leader": self.cluster.pid("om1"), "joiner": child.pid}
        began = time.monotonic()
        with Memory(pids) as memory:
            added = self.cluster.apus("admin", "om", "add", f"om{number}", address, check=False)
        seconds = time.monotonic() - began
        if load.poll() is not None:
            raise RuntimeError(f"the load ended while om{number} joined: {load.stderr.read()[-300:]}")
        load.send_signal(signal.SIGINT)
        p99 = self.end_load(load, f"while om{number} joins")
        if added.returncode != 0 or "votes" not in added.stdout:
            raise RuntimeError(f"apus admin om add om{number}: {added.stderr[-500:]}")
        # The database's own log of a leader that serves may be many times as long as its tables.
        tables = [self.tables_size(1, with_log=False), self.tables_size(number)]
        if tables[1] < tables[0] / 2:
            raise RuntimeError(f"om{number} has {tables[1]} bytes of tables, om1 {tables[0]}")
        lines = added.stderr.splitlines()
        print(f"  om{number} votes after {seconds:.1f} s; largest memory: "
              + ", ".join(f"{name} {size / MIB:.0f} MiB" for name, size in memory.largest.items()))
        for line in lines[:3] + (["…"] if len(lines) > 6 else []) + lines[3:][-3:]:
            print(f"    {line}")
        self.detail[f"om{number}"] = {
            "seconds": seconds, **{name: size for name, size in memory.largest.items()}}
        return p99

    def tables_size(self, number, with_log=True):
        """Of a member, with what is in the database's own log or without."""
        path = f"{self.cluster.dir}/om{number}/metadata.db"
        files = [path, path + "-wal"] if with_log else [path]
        return sum(os.path.getsize(name) for name in files if os.path.exists(name))

    def round(self, number):
        """One growth a run: a group of three does not shrink to what it was."""
        if self.found["before"]:
            return
        size = os.path.getsize(f"{self.cluster.dir}/om1/metadata.db")
        print(f"  {self.keys:,} keys in {size / MIB:.0f} MiB of tables", flush=True)
        self.found["before"] = [self.measured("before")]
        self.found["during"] = [self.add(2), self.add(3)]
        self.measured("afterwards")

    def rows(self):
        return [make_row(
            28, f"OM of {self.keys:,} keys grows to three: p99", "ms", self.found["during"],
            yardstick=f"{self.rate} opens and commits a second, before", at_most=2,
            reference=self.found["before"], durability=SYNC, cache="tables in the page cache",
            detail=self.detail)]

    def close(self):
        for child in self.children:
            child.kill()
            child.wait()
        if self.apus:
            self.apus.cluster.destroy()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--rate", type=int, default=400)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parent.parent
    os.environ.setdefault("APUS_BINARY", str(root / ".build/release/apus"))
    row = GrowthRow({28}, arguments.quick, arguments.keys, arguments.rate)
    try:
        row.prepare()
        row.round(0)
        [found] = row.rows()
        print(f"  ratio {found['ratio']:.2f}, goal 2")
    finally:
        row.close()


if __name__ == "__main__":
    main()
