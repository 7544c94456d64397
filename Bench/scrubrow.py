"""Row 15: what clients notice of a scrub that reads as fast as it may."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import threading
import time

from measure import GIB, Series, make_row
from s3load import MixedPlan, Plan, PreparedLoad
from s3rows import SYNC, Apus, settle
from rig import LONGEST_START, lines

MIB = 1 << 20


class Datanodes:
    """The datanodes of a cluster, ended and started again with other settings.

    A scrub begins when a datanode starts and ends when all it stores has been verified; when
    that was is kept in a file of the volume. So a start without the file begins one anew."""

    START_SECONDS = 30

    def __init__(self, apus):
        self.apus = apus
        self.started = []
        self.volumes = {}
        for name in apus.datanodes:
            settings = json.loads(self.settings(name).read_text())
            self.volumes[name] = [pathlib.Path(v) for v in settings["datanode"]["volumes"]]

    def settings(self, name):
        return pathlib.Path(self.apus.cluster.dir, "etc", f"{name}.json")

    def restart(self, scrubs):
        """All of them at once, told to scrub at full rate from the start, or not at all."""
        self.stop()
        for path in self.times():
            path.unlink(missing_ok=True)
        program = os.environ["APUS_BINARY"]
        options = ["--set", f"datanode.scrub.enabled={'true' if scrubs else 'false'}",
                   "--set", "datanode.scrub.bytes-per-second=0"]
        for name in self.apus.datanodes:
            with open(f"{self.apus.cluster.dir}/log/{name}.again.log", "a") as log:
                child = subprocess.Popen(
                    [program, "datanode", "--config", str(self.settings(name)), *options],
                    stdout=subprocess.PIPE, stderr=log, text=True)
            self.started.append(child)
            path = pathlib.Path(self.apus.cluster.dir, "run", f"{name}.pid")
            path.write_text(f"{child.pid}\n")
        for name, child in zip(self.apus.datanodes, self.started):
            if not next(lines(child.stdout, LONGEST_START, name), "").startswith("ready"):
                raise RuntimeError(f"{name} did not start again: "
                                   + self.apus.cluster.tail(f"log/{name}.again.log")[-300:])

    def times(self):
        """The files that tell when replicas were verified; there once a scrub has ended."""
        return [volume / "scrubbed" for volumes in self.volumes.values() for volume in volumes]

    def stop(self):
        if not self.started:  # Children of `apus up`, which reaps them.
            ids = [self.apus.cluster.pid(name) for name in self.apus.datanodes]
            for pid in ids:
                os.kill(pid, signal.SIGTERM)
            for pid in ids:
                wait_for_end(pid, self.START_SECONDS)
        self.end_started()

    def end_started(self):
        for child in self.started:
            child.terminate()
        for child in self.started:
            child.wait(timeout=self.START_SECONDS)
        self.started = []

    def read_bytes(self):
        """Bytes they have had read from disk, by the kernel's count."""
        total = 0
        for name in self.apus.datanodes:
            text = pathlib.Path(f"/proc/{self.apus.cluster.pid(name)}/io").read_text()
            total += int(dict(line.split(": ") for line in text.splitlines())["read_bytes"])
        return total


def wait_for_end(pid, seconds):
    """Waits for a process that is not a child of this one."""
    for _ in range(seconds * 50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise RuntimeError(f"process {pid} did not end in {seconds} s")


class Watch:
    """Which part of a `with` block scrubs were at work in, looked at every 20 ms.

    `busy`: the mean over the volumes, 0 to 1."""

    def __init__(self, times):
        self.times = times

    def __enter__(self):
        self.looks, self.found = 0, 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def look(self):
        while not self.ended.wait(0.02):
            self.looks += len(self.times)
            self.found += sum(not path.exists() for path in self.times)

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        self.busy = self.found / self.looks if self.looks else 0


class ScrubRow:
    """Row 15: p99 of a mix of reads, with every datanode scrubbing at full rate and without.

    Half of the requests are 64 KiB at random of objects of 1 GiB, half whole objects of 1 MiB.
    Before either measurement of a round all datanodes start anew, so that both begin alike."""

    numbers = {15}
    title = "S3 reads beside a scrub of all datanodes, rs-3-2-1024k"
    count = 64 << 10
    # A scrub is to be at work in so much of the time that its clients were measured in.
    least_busy = 0.9

    def __init__(self, wanted, quick):
        self.large = [(f"large-{n}", n) for n in range(2 if quick else 4)]
        self.small = [(f"mib-{n:04}", n) for n in range(256 if quick else 1024)]
        self.requests = 1000 if quick else 4000
        self.series = Series()
        self.random = random.Random(15)

    def prepare(self):
        stored = (len(self.large) * GIB + len(self.small) * MIB) * 5 // 3
        free = shutil.disk_usage(os.environ.get("APUS_TEST_TMP", "/tmp")).free
        if free < 2 * stored:
            raise RuntimeError(f"{free / GIB:.0f} GiB are free, {2 * stored / GIB:.0f} are wanted")
        self.apus = Apus()
        self.datanodes = Datanodes(self.apus)
        for objects, size in [(self.large, GIB), (self.small, MIB)]:
            PreparedLoad(Plan("PUT", objects, size), self.apus.target, 2).run()
        self.datanodes.restart(scrubs=False)
        PreparedLoad(self.plan(400), self.apus.target, 8, verify=True).run()
        settle()

    def plan(self, requests):
        """Ranges that lie in one cell, as in row 12, and whole objects; in random order."""
        objects, ranges = [], []
        for _ in range(requests // 2):
            objects.append(self.random.choice(self.large))
            cell = self.random.randrange(GIB // MIB) * MIB
            ranges.append((cell + self.random.randrange(MIB - self.count + 1), self.count))
        whole = [self.random.choice(self.small) for _ in range(requests // 2)]
        return MixedPlan(
            [Plan("GET", objects, GIB, ranges), Plan("GET", whole, MIB)], self.random)

    def measure(self, plan, scrubs):
        """The same requests with or without; also the bytes read from disk meanwhile."""
        self.datanodes.restart(scrubs)
        PreparedLoad(self.plan(200), self.apus.target, 8).run()
        load = PreparedLoad(plan, self.apus.target, 8)
        before = self.datanodes.read_bytes()
        with Watch(self.datanodes.times()) as watch:
            result, meter = self.apus.measure(load)
        return result, meter, self.datanodes.read_bytes() - before, watch.busy

    def round(self, number):
        """Twice without and once with, which takes each place in turn: how far the two without
        lie apart is what the machine's noise amounts to."""
        plan = self.plan(self.requests)
        alone, scrubbed = [], None
        for place in range(3):
            if place == number % 3:
                scrubbed = self.measure(plan, scrubs=True)
            else:
                alone.append(self.measure(plan, scrubs=False))
            settle()
        result, meter, read, busy = scrubbed
        if busy < self.least_busy:
            raise RuntimeError(f"scrubs were at work in {busy:.0%} of the time only: "
                               "they ended before the clients did")
        self.series.add(
            product=result["latency_ms"]["p99"], p50_ms=result["latency_ms"]["p50"],
            requests_s=result["requests"] / result["seconds"], cpu=meter.cpu,
            scrub_mib_s=(read - alone[0][2]) / result["seconds"] / MIB, scrub_busy=busy,
            clients_read_mib=alone[0][2] / MIB)
        p99s = [result["latency_ms"]["p99"] for result, *_ in alone]
        self.series.add(noise=max(p99s) / min(p99s),
                        round_ratio=2 * self.series["product"][-1] / sum(p99s))
        for result, meter, *_ in alone:
            self.series.add(
                reference=result["latency_ms"]["p99"], reference_cpu=meter.cpu,
                reference_p50_ms=result["latency_ms"]["p50"],
                reference_requests_s=result["requests"] / result["seconds"])

    def rows(self):
        detail = {key: self.series.median(key) for key in self.series
                  if key not in ("product", "reference")}
        detail["round_ratios"] = self.series["round_ratio"]
        detail["noises"] = self.series["noise"]
        # What others do on the machine lengthens both and hides the scrub's part: with the least
        # of that, the two were so far apart.
        detail["quietest_ratio"] = min(self.series["product"]) / min(self.series["reference"])
        detail["requests"] = self.requests
        return [make_row(
            15, "S3 GET p99 beside a full scrub", "ms", self.series["product"],
            "the same requests without the scrub, which read "
            f"{detail['scrub_mib_s']:.0f} MiB/s of all datanodes; two measurements without it "
            f"are {detail['noise']:.2f}x apart, and the quietest with and without "
            f"{detail['quietest_ratio']:.2f}x",
            self.series["reference"], at_most=1.2, durability=SYNC, cache="O_DIRECT, no cache",
            detail=detail)]

    def close(self):
        if getattr(self, "datanodes", None):
            self.datanodes.end_started()
        if getattr(self, "apus", None):
            self.apus.destroy()
