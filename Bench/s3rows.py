"""Rows 9 to 14: whole clusters of processes, and nginx beside them on the same disk."""

import os
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "Tests" / "Cluster"))
from rig import Cluster  # noqa: E402

from measure import GIB, Meter, Series, make_row  # noqa: E402
from peers import Nginx  # noqa: E402
from s3load import Plan, PlainTarget, PreparedLoad, S3Target  # noqa: E402

SYNC = "sync"
DIRECT = "apus: O_DIRECT, no cache; nginx: files in the page cache"


class Apus:
    """A cluster of processes of its own, and how to load and measure it."""

    def __init__(self, datanodes=5, options=(), separate=True):
        self.cluster = Cluster(datanodes=datanodes, options=options, separate=separate)
        self.datanodes = [f"dn{index}" for index in range(1, datanodes + 1)]
        self.cluster.start()
        self.cluster.client().create_bucket(Bucket="bench")

    @property
    def processes(self):
        return {role: self.cluster.pid(role) for role in ["s3g1", "om1", "scm1", *self.datanodes]}

    @property
    def target(self):
        access, secret = self.cluster.keys()
        return S3Target(self.cluster.endpoint, access, secret, "bench")

    def kill(self, names):
        for name in names:
            self.cluster.kill(name)
            self.datanodes.remove(name)

    def nodes_by_data_cells(self, keys):
        """Datanodes, those with the most data cells of `keys` first."""
        import json
        ports = {}
        for name in self.datanodes:
            settings = json.loads(
                pathlib.Path(self.cluster.dir, "etc", f"{name}.json").read_text())
            ports[settings["datanode"]["port"]] = name
        held = dict.fromkeys(self.datanodes, 0)
        for key in keys:
            info = json.loads(self.cluster.apus(
                "key", "info", f"/s3v/bench/{key}", "--blocks", "--json").stdout)
            for group in info["blocks"]:
                data = int(group["replication"].split("-")[1])
                for replica in group["replicas"]:
                    if replica["index"] <= data and replica["address"] != "-":
                        held[ports[int(replica["address"].rsplit(":", 1)[1])]] += 1
        return sorted(held, key=lambda name: -held[name]), held

    def measure(self, load):
        with Meter(self.processes) as meter:
            result = load.run()
        return result, meter

    def destroy(self):
        self.cluster.destroy()


def roles(meter, scale):
    """CPU by role, scaled: the gateway, the metadata roles, all datanodes."""
    by_name = meter.by_name
    return {"gateway": by_name["s3g1"] * scale, "om": by_name["om1"] * scale,
            "scm": by_name["scm1"] * scale,
            "datanodes": sum(v for k, v in by_name.items() if k.startswith("dn")) * scale}


class S3Rows:
    """Rows 9, 10, 11, 13 and 14 on five datanodes, rs-3-2-1024k, durability sync."""

    numbers = {9, 10, 11, 13, 14}
    title = "S3 over five datanodes, rs-3-2-1024k, beside nginx"

    def __init__(self, wanted, quick):
        self.wanted = wanted & self.numbers
        self.size = 64 << 20
        self.objects = [(f"large-{n:03}", n) for n in range(8 if quick else 24)]
        puts, gets = (600, 1200) if quick else (2000, 4000)
        self.small_puts = [(f"small-{n:05}", n) for n in range(puts)]
        self.small_gets = [self.small_puts[n % puts] for n in range(gets)]
        self.heads = 500 if quick else 2000
        self.series = {}
        self.detail = {}

    # Preparation

    def prepare(self):
        self.nginx = Nginx()
        self.plain = PlainTarget(self.nginx.port)
        self.apus = Apus()
        self.degraded = None
        if self.wanted & {9, 10, 11}:
            self.put_large(None)
        if 11 in self.wanted:
            self.degraded = Apus()
            self.load("PUT", self.objects, self.size, self.degraded.target, 8).run()
            order, held = self.degraded.nodes_by_data_cells(key for key, _ in self.objects)
            self.degraded.kill(order[:2])
            self.detail["killed"] = {name: held[name] for name in order[:2]}
            # Until SCM counts them as dead (scm.dead-after-ms is 15 s).
            time.sleep(17)
        if 13 in self.wanted:
            self.load("PUT", [("huge", 7)], GIB, self.apus.target, 1).run()
            self.load("PUT", [("huge", 7)], GIB, self.plain, 1).run()
        if 14 in self.wanted:
            self.put_small(None)
        self.verify()

    def load(self, method, objects, size, target, clients, **options):
        return PreparedLoad(Plan(method, objects, size), target, clients, **options)

    def verify(self):
        """Every byte of everything once, before figures are taken; also the warm-up."""
        for apus in filter(None, [self.apus, self.degraded]):
            if self.wanted & {9, 10, 11}:
                self.load("GET", self.objects, self.size, apus.target, 8, verify=True).run()
        if self.wanted & {9, 10, 11}:
            self.load("GET", self.objects, self.size, self.plain, 8, verify=True).run()
        if 14 in self.wanted:
            for target in [self.apus.target, self.plain]:
                self.load("GET", self.small_puts, 4096, target, 16, verify=True).run()

    # Measurements

    def record(self, name, product, yardstick, scale, load_product, load_yardstick, first):
        """One measurement of both, in the order that the round gives."""
        series = self.series.setdefault(name, Series())
        for who in (["product", "yardstick"] if first else ["yardstick", "product"]):
            if who == "product":
                result, meter = product.measure(load_product)
                series.add(product=meter.cpu * scale, seconds=result["seconds"],
                           mib_s=result["bytes"] / result["seconds"] / (1 << 20),
                           requests_s=result["requests"] / result["seconds"],
                           p50_ms=result["latency_ms"]["p50"], p99_ms=result["latency_ms"]["p99"],
                           **{"cpu_" + k: v for k, v in roles(meter, scale).items()})
            elif load_yardstick:
                with Meter(yardstick.processes) as meter:
                    result = load_yardstick.run()
                series.add(reference=meter.cpu * scale, reference_seconds=result["seconds"],
                           reference_mib_s=result["bytes"] / result["seconds"] / (1 << 20),
                           reference_p50_ms=result["latency_ms"]["p50"])
            settle()

    def put_large(self, number):
        scale = GIB / (len(self.objects) * self.size)
        loads = [self.load("PUT", self.objects, self.size, target, 8)
                 for target in (self.apus.target, self.plain)]
        if number is None:
            for load in loads:
                load.run()
        else:
            self.record("put", self.apus, self.nginx, scale, *loads, number % 2 == 0)

    def get_large(self, number):
        scale = GIB / (len(self.objects) * self.size)
        loads = [self.load("GET", self.objects, self.size, target, 8)
                 for target in (self.apus.target, self.plain)]
        self.record("get", self.apus, self.nginx, scale, *loads, number % 2 == 0)
        if self.degraded:
            load = self.load("GET", self.objects, self.size, self.degraded.target, 8)
            self.record("get_degraded", self.degraded, None, scale, load, None, True)

    def put_small(self, number):
        loads = [self.load("PUT", self.small_puts, 4096, target, 16)
                 for target in (self.apus.target, self.plain)]
        if number is None:
            for load in loads:
                load.run()
        else:
            scale = 1000 / len(self.small_puts)
            self.record("put_small", self.apus, self.nginx, scale, *loads, number % 2 == 0)

    def get_small(self, number):
        loads = [self.load("GET", self.small_gets, 4096, target, 16)
                 for target in (self.apus.target, self.plain)]
        scale = 1000 / len(self.small_gets)
        self.record("get_small", self.apus, self.nginx, scale, *loads, number % 2 == 0)

    def first_bytes(self, number):
        heads = [("huge", 7)] * self.heads
        loads = [self.load("HEAD", heads, 0, target, 8)
                 for target in (self.apus.target, self.plain)]
        self.record("head", self.apus, self.nginx, 1000 / len(heads), *loads, number % 2 == 0)
        series = self.series.setdefault("first_byte", Series())
        stripe = 3 << 20
        load = self.load("GET", [("huge", 7)] * 10, GIB, self.apus.target, 1, mark=stripe,
                         stop_after=2 * stripe, pause=100)
        result = load.run()
        series.add(product=result["first_byte_ms"]["p50"], reference=result["mark_ms"]["p50"],
                   p99_ms=result["first_byte_ms"]["max"])
        load = self.load("GET", [("huge", 7)] * 10, GIB, self.plain, 1, mark=stripe,
                         stop_after=2 * stripe, pause=100)
        result = load.run()
        series.add(nginx_ms=result["first_byte_ms"]["p50"])
        settle()

    def round(self, number):
        if 10 in self.wanted:
            self.put_large(number)
        if self.wanted & {9, 11}:
            self.get_large(number)
        if 14 in self.wanted:
            self.put_small(number)
            self.get_small(number)
        if 13 in self.wanted:
            self.first_bytes(number)

    # Results

    def details(self, name):
        series = self.series[name]
        return {key: series.median(key) for key in series if key not in ("product", "reference")}

    def rows(self):
        rows = []

        def row(number, name, unit, series, yardstick, durability=SYNC, cache=DIRECT, **goal):
            found = self.series[series]
            rows.append(make_row(
                number, name, unit, found["product"], yardstick, found.get("reference"),
                durability=durability, cache=cache, detail=self.details(series), **goal))

        unsynced = "apus: sync; nginx: not synced"
        written = "apus: O_DIRECT; nginx: stays in the page cache"
        if 9 in self.wanted:
            row(9, "S3 GET 64 MiB, 8 clients", "CPU-s/GiB", "get", "nginx", at_most=3.5)
        if 10 in self.wanted:
            row(10, "S3 PUT 64 MiB, 8 clients", "CPU-s/GiB", "put", "nginx, not synced",
                unsynced, written, at_most=1.5)
        if 11 in self.wanted:
            self.add_degraded(rows)
        if 13 in self.wanted:
            row(13, "S3 HEAD, 8 clients", "ms CPU", "head", "nginx", cache="metadata in memory",
                at_most=0.3, judged="product")
            row(13, "first byte of a 1 GiB GET", "ms", "first_byte", "its first stripe, whole",
                cache="O_DIRECT, no cache", at_most=0.67)
        if 14 in self.wanted:
            row(14, "S3 PUT 4 KiB, 16 clients", "ms CPU", "put_small", "nginx, not synced",
                unsynced, written, at_most=0.6, judged="product")
            row(14, "S3 GET 4 KiB, 16 clients", "ms CPU", "get_small", "nginx", at_most=0.15,
                judged="product")
        return rows

    def add_degraded(self, rows):
        whole, degraded = self.series["get"], self.series["get_degraded"]
        detail = self.details("get_degraded")
        detail["killed_data_cells"] = self.detail["killed"]
        rows.append(make_row(
            11, "S3 GET, 2 of 5 datanodes dead", "GiB/CPU-s", [1 / v for v in degraded["product"]],
            "row 9, whole", [1 / v for v in whole["product"]], at_least=0.8, durability=SYNC,
            cache="O_DIRECT, no cache", detail=detail))

    def close(self):
        for part in ("apus", "degraded", "nginx"):
            thing = getattr(self, part, None)
            if thing:
                thing.stop() if part == "nginx" else thing.destroy()


def settle():
    """Lets the disk and the background work of what ran come to rest."""
    os.sync()
    time.sleep(0.5)


class RangeRow:
    """Row 12: ranges of 64 KiB in 1 GiB objects, rs-6-3-1024k, nine datanodes."""

    numbers = {12}
    title = "S3 ranges over nine datanodes, rs-6-3-1024k, beside the kernel's disk counters"
    count = 64 << 10
    cell = 1 << 20

    def __init__(self, wanted, quick):
        self.objects = [(f"ranged-{n}", n) for n in range(1 if quick else 3)]
        self.requests = 300 if quick else 1000
        self.singles = 30 if quick else 50
        self.series = Series()
        self.random = random.Random(12)

    def prepare(self):
        self.apus = Apus(9, ["--replication", "rs-6-3-1024k"])
        PreparedLoad(Plan("PUT", self.objects, GIB), self.apus.target, 2).run()
        PreparedLoad(self.plan(200), self.apus.target, 8, verify=True).run()

    def plan(self, requests):
        """Ranges anywhere to the byte, but none across two cells (those need two datanodes)."""
        objects, ranges = [], []
        for _ in range(requests):
            objects.append(self.random.choice(self.objects))
            cell = self.random.randrange(GIB // self.cell) * self.cell
            ranges.append((cell + self.random.randrange(self.cell - self.count + 1), self.count))
        return Plan("GET", objects, GIB, ranges)

    def disk_bytes(self):
        """Bytes each datanode has had read from disk, by the kernel's count."""
        counts = []
        for name in self.apus.datanodes:
            text = pathlib.Path(f"/proc/{self.apus.cluster.pid(name)}/io").read_text()
            fields = dict(line.split(": ") for line in text.splitlines())
            counts.append(int(fields["read_bytes"]))
        return counts

    def round(self, number):
        load = PreparedLoad(self.plan(self.requests), self.apus.target, 8)
        before = sum(self.disk_bytes())
        result, meter = self.apus.measure(load)
        read = sum(self.disk_bytes()) - before
        self.series.add(
            kib=read / self.requests / 1024, cpu_ms=meter.cpu * 1000 / self.requests,
            requests_s=result["requests"] / result["seconds"],
            p50_ms=result["latency_ms"]["p50"], p99_ms=result["latency_ms"]["p99"])
        asked = []
        for _ in range(self.singles):
            load = PreparedLoad(self.plan(1), self.apus.target, 1)
            before = self.disk_bytes()
            load.run()
            asked.append(sum(a != b for a, b in zip(self.disk_bytes(), before)))
        self.series.add(asked=sum(asked) / len(asked), asked_most=max(asked))

    def rows(self):
        detail = {key: self.series.median(key) for key in self.series}
        cache = "O_DIRECT, no cache; bytes from /proc/PID/io of the datanodes"
        return [
            make_row(12, "S3 range 64 KiB, rs-6-3: disk", "KiB read", self.series["kib"],
                     "the range itself", [64.0] * len(self.series["kib"]), at_most=96,
                     judged="product", durability=SYNC, cache=cache, detail=detail),
            make_row(12, "S3 range 64 KiB, rs-6-3: asked", "datanodes", self.series["asked"],
                     "one", [1.0] * len(self.series["asked"]), at_most=1.0, judged="product",
                     durability=SYNC, cache=cache)]

    def close(self):
        if getattr(self, "apus", None):
            self.apus.destroy()
