"""Rows 30 and 31: how fast a lost datanode is rebuilt, and what clients notice of it."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from measure import make_row
from s3load import Plan, PreparedLoad
from s3rows import SYNC, Apus

MIB = 1 << 20
# Of rs-3-2: bytes read for each that is written.
READS = 3


class DiskMix:
    """Direct reads and writes of the same disk in the proportion in which a replica is rebuilt: what
    the disk gives, without a byte being decoded or checked."""

    SECONDS = 5

    def __init__(self):
        self.program = shutil.which("fio")
        if not self.program:
            raise RuntimeError("fio is missing (Debian: fio)")
        self.folder = tempfile.TemporaryDirectory(
            prefix="apus-fio-", dir=os.environ.get("APUS_TEST_TMP"))

    def run(self):
        """MiB written in a second, beside READS times as many that are read."""
        result = subprocess.run(
            [self.program, "--name=mix", f"--directory={self.folder.name}", "--rw=rw",
             f"--rwmixread={100 * READS // (READS + 1)}", "--bs=1M", "--direct=1",
             "--ioengine=io_uring", "--iodepth=16", "--size=1G", "--time_based",
             f"--runtime={self.SECONDS}", "--output-format=json"],
            capture_output=True, text=True, check=True)
        return json.loads(result.stdout)["jobs"][0]["write"]["bw_bytes"] / MIB

    def close(self):
        self.folder.cleanup()


class RepairRows:
    """Seven datanodes of rs-3-2; one is killed for good, and comes back afterwards.

    30: nobody else wants anything. 31: a mixed load at a fixed rate, with the node dead, before its
    replicas are rebuilt and while they are."""

    numbers = {30, 31}
    title = "a lost datanode is rebuilt"
    REPAIR_AFTER = 30
    RATE = 60

    def __init__(self, wanted, quick):
        self.wanted = wanted & self.numbers
        self.objects = [(f"kept-{n:03}", n) for n in range(32 if quick else 96)]
        self.size = 64 * MIB
        self.series = {name: [] for name in ("rebuilt", "disk", "before", "during")}
        self.detail = {"underLoad": [], "MiB": []}

    def prepare(self):
        self.disk = DiskMix()
        self.apus = Apus(datanodes=7, options=[
            "--set", f"scm.repair-after-ms={self.REPAIR_AFTER * 1000}",
            "--set", "scm.dead-after-ms=6000"])
        self.cluster = self.apus.cluster
        PreparedLoad(Plan("PUT", self.objects, self.size), self.apus.target, 8).run()
        for row in self.ask("container", "list"):
            if row["state"] == "OPEN":
                self.cluster.apus("admin", "container", "close", str(row["id"]))
        self.until("containers are closed", lambda: all(
            row["state"] == "CLOSED" for row in self.ask("container", "list")), 120)
        self.until("all is whole", self.is_whole, 60)

    def ask(self, *words):
        return json.loads(self.cluster.apus("admin", *words, "--json").stdout)

    def safety(self):
        return json.loads(self.cluster.apus("admin", "safety", "--json", check=False).stdout)

    def is_whole(self):
        found = self.safety()
        return found["isKnown"] and found["degradedBlocks"] == 0 and not self.repairs(found)

    @staticmethod
    def repairs(found):
        return sum(row["repairs"] for row in found["replications"])

    def until(self, what, holds, seconds, pause=0.2):
        began = time.monotonic()
        while not holds():
            if time.monotonic() > began + seconds:
                raise RuntimeError(f"not within {seconds} s: {what}")
            time.sleep(pause)

    # Measuring

    def lose(self, number):
        """Kills a datanode; its replicas' bytes, once SCM has missed them."""
        name = self.apus.datanodes[number % len(self.apus.datanodes)]
        identity = next(pathlib.Path(self.cluster.dir).glob(f"{name}/**/datanode.id")).read_text()
        used = next(row["used"] for row in self.ask("datanode", "list")
                    if row["id"] == identity.strip())
        self.cluster.kill(name)
        self.until("it is missed", lambda: self.safety()["degradedBlocks"] != 0, 40)
        return name, used

    def bring_back(self, name):
        """What others have by now is removed from it."""
        self.cluster.restart(name, "datanode")

        def is_clean():
            files = pathlib.Path(self.cluster.dir, name).glob("**/container-*.data")
            return self.is_whole() and not any(files)
        self.until(f"{name} has nothing left", is_clean, 120)

    def rebuild(self, limit):
        """Seconds from the first order until all is whole."""
        self.until("it is begun", lambda: self.repairs(self.safety()) > 0,
                   self.REPAIR_AFTER + 20, 0.05)
        began = time.monotonic()
        self.until("it is rebuilt", self.is_whole, limit, 0.05)
        return time.monotonic() - began

    def load(self, seconds):
        result = subprocess.run(
            [os.environ["APUS_BINARY"], "bench", "mixed", "--dir", self.cluster.dir, "--bucket",
             "/s3v/bench", "--size", "64k-1m", "--clients", "16", "--reads", "70", "--rate",
             str(self.RATE), "--duration", f"{seconds}s", "--json"],
            capture_output=True, text=True, check=False)
        if not result.stdout:
            raise RuntimeError(f"apus bench mixed: {result.stderr.strip()}")
        report = json.loads(result.stdout)
        if report["errors"]:
            raise RuntimeError(f"apus bench mixed: {report['errors']}")
        return max(found["latencyMilliseconds"]["p99"] for found in report["operations"])

    def round(self, number):
        if 30 in self.wanted:
            self.series["disk"].append(self.disk.run())
            name, used = self.lose(2 * number)
            seconds = self.rebuild(300)
            self.series["rebuilt"].append(used / MIB / seconds)
            self.detail["MiB"].append(used >> 20)
            self.bring_back(name)
        if 31 in self.wanted:
            name, used = self.lose(2 * number + 1)
            self.series["before"].append(self.load(10))
            self.until("it is begun", lambda: self.repairs(self.safety()) > 0,
                       self.REPAIR_AFTER + 20, 0.05)
            began = time.monotonic()
            self.series["during"].append(self.load(10))
            self.until("it is rebuilt", self.is_whole, 300)
            self.detail["underLoad"].append(
                {"MiB": used >> 20, "secondsAtMost": time.monotonic() - began})
            self.bring_back(name)

    def rows(self):
        rows = []
        if 30 in self.wanted:
            rows.append(make_row(
                30, "rebuild of a datanode", "MiB/s", self.series["rebuilt"],
                "fio: direct reads and writes of the disk, 3 to 1", self.series["disk"],
                at_least=0.8, durability=SYNC, detail=self.detail))
        if 31 in self.wanted:
            rows.append(make_row(
                31, "clients' p99 during a rebuild", "ms", self.series["during"],
                "the same load with the node dead, before", self.series["before"], at_most=1.2,
                durability=SYNC, detail=self.detail))
        return rows

    def close(self):
        for part in ("disk", "apus"):
            if hasattr(self, part):
                found = getattr(self, part)
                found.close() if part == "disk" else found.destroy()
