"""Rows 23 to 27: what three members of OM and SCM cost, beside one of each, and how long nothing
can be written when the OM that leads dies."""

import os
import subprocess
import threading
import time

from measure import GIB, Meter, Series, make_row
from s3load import Plan, PreparedLoad
from s3rows import SYNC, Apus, settle

BUCKET = "/s3v/bench"


class Grouped(Apus):
    """A cluster with so many members of each group."""

    def __init__(self, members):
        self.members = members
        super().__init__(options=["--oms", str(members), "--scms", str(members)])

    @property
    def processes(self):
        names = [f"{role}{number + 1}" for role in ["om", "scm"] for number in range(self.members)]
        return {role: self.cluster.pid(role) for role in ["s3g1", *names, *self.datanodes]}

    @property
    def oms(self):
        return [f"om{number + 1}" for number in range(self.members)]

    def leader(self):
        """The OM that leads."""
        found = self.cluster.leader("om")
        if found is None:
            raise RuntimeError("no OM leads")
        return found


class GroupRows:
    """Two clusters that differ in the members of their groups, loaded in turn."""

    numbers = {23, 24, 25, 26, 27}
    title = "groups of three beside groups of one"
    clients = 256

    def __init__(self, wanted, quick):
        self.wanted = wanted & self.numbers
        self.count = 10_000 if quick else 20_000
        self.lookups = 40_000 if quick else 100_000
        self.kills = 2 if quick else 3
        self.large = [(f"large-{n:03}", n) for n in range(8 if quick else 16)]
        self.small = [(f"small-{n:05}", n) for n in range(600 if quick else 2000)]
        self.series = {}
        self.gaps = []
        self.clusters = {}

    def prepare(self):
        for members in [1, 3]:
            apus = self.clusters[members] = Grouped(members)
            self.names(apus, "create", 500)
            for plan in self.plans():
                PreparedLoad(plan, apus.target, 8).run()

    def names(self, apus, operation, count):
        """CPU seconds of the OM that leads, and of all of them."""
        leader = apus.leader()
        arguments = ["--length", "4096", "--scatter", "--keep"] if operation == "create" else []
        with Meter({name: apus.cluster.pid(name) for name in apus.oms}) as meter:
            result = subprocess.run(
                [os.environ["APUS_BINARY"], "bench", "om", "--dir", apus.cluster.dir,
                 "--bucket", BUCKET, "--operation", operation, "--clients", str(self.clients),
                 "--count", str(count), "--json", *arguments],
                capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RuntimeError(f"apus bench om: {(result.stderr or result.stdout)[-300:]}")
        return meter.by_name[leader], meter.cpu

    def plans(self):
        yield Plan("PUT", self.large, 64 << 20)
        yield Plan("GET", self.large, 64 << 20)
        yield Plan("PUT", self.small, 4096)
        yield Plan("GET", self.small, 4096)

    def add(self, name, members, value):
        which = "product" if members == 3 else "reference"
        self.series.setdefault(name, Series()).add(**{which: value})

    def round(self, number):
        for members in ([1, 3] if number % 2 else [3, 1]):
            apus = self.clusters[members]
            if self.wanted & {23, 24}:
                leader, everyone = self.names(apus, "create", self.count)
                self.add("leader", members, 2 * self.count / leader)
                self.add("everyone", members, 2 * self.count / everyone)
            if 25 in self.wanted:
                leader, _ = self.names(apus, "info", self.lookups)
                self.add("lookup", members, 1e6 * leader / self.lookups)
            if 27 in self.wanted:
                for plan in self.plans():
                    settle()
                    _, meter = apus.measure(PreparedLoad(plan, apus.target, 8))
                    name = f"{plan.method} {'64 MiB' if plan.size > 4096 else '4 KiB'}"
                    scale = (GIB / (len(self.large) * plan.size) if plan.size > 4096
                             else 1000 / len(self.small))
                    self.add(name, members, meter.cpu * scale)
        if 26 in self.wanted:
            self.kill_leaders()

    def kill_leaders(self):
        """Seconds without a successful write after each kill."""
        apus = self.clusters[3]
        client = apus.cluster.client()
        done = []
        ended = threading.Event()

        def write(number):
            count = 0
            while not ended.is_set():
                try:
                    client.put_object(Bucket="bench", Key=f"gap-{number}-{count % 64}", Body=b"x")
                    done.append(time.monotonic())
                except Exception:  # Counted as time without a write.
                    time.sleep(0.01)
                count += 1

        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        try:
            for _ in range(self.kills):
                time.sleep(2)
                leader = apus.leader()
                killed = time.monotonic()
                apus.cluster.kill(leader)
                time.sleep(4)
                times = sorted(moment for moment in done if moment > killed - 0.5)
                self.gaps.append(max(b - a for a, b in zip(times, times[1:])))
                apus.cluster.restart(leader, "om")
        finally:
            ended.set()
            for writer in writers:
                writer.join()

    def rows(self):
        rows = []

        def row(number, name, unit, series, **goal):
            found = self.series[series]
            rows.append(make_row(
                number, name, unit, found["product"], "the same with one of each",
                found["reference"], durability=SYNC, cache="tables in the page cache", **goal))

        if self.wanted & {23, 24}:
            row(23, "three OMs: open, commit; the leader's CPU", "tx/CPU-s", "leader",
                at_least=0.6)
            row(24, "three OMs: open, commit; CPU of all", "tx/CPU-s", "everyone", at_least=0.35)
        if 25 in self.wanted:
            row(25, "three OMs: look-ups on the leader", "us of CPU", "lookup", at_most=1.15)
        if 26 in self.wanted:
            yardstick = "four writers of 1 byte over S3"
            rows.append(make_row(
                26, "no write after SIGKILL of the leader", "s", self.gaps, yardstick=yardstick,
                at_most=1, judged="product", durability=SYNC, detail={"kills": len(self.gaps)}))
            rows.append(make_row(
                26, "the longest of these times", "s", [max(self.gaps)], yardstick=yardstick,
                at_most=2, judged="product", durability=SYNC))
        if 27 in self.wanted:
            for name in ["PUT 64 MiB", "GET 64 MiB", "PUT 4 KiB", "GET 4 KiB"]:
                unit = "CPU-s/GiB" if "MiB" in name else "CPU-ms"
                row(27, f"three of each: S3 {name}, CPU of all roles", unit, name, at_most=1.15)
        return rows

    def close(self):
        for apus in self.clusters.values():
            apus.cluster.destroy()
