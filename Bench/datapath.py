"""Rows 6 to 8: the container store beside fio, and the native RPC beside iperf3."""

import glob
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time

from measure import GIB, ROOT, Meter, Series, make_row, run_counted
from peers import free_port

DATAPATH_BENCH = os.environ.get(
    "APUS_DATAPATH_BENCH", str(ROOT / ".build/release/datapath-bench"))


def product(command, *arguments):
    """One measurement of datapath-bench. It counts its own CPU, from when the store is open."""
    output, _ = run_counted([DATAPATH_BENCH, command, *map(str, arguments)])
    return json.loads(output) if output else None


class Fio:
    """fio's io_uring engine on one file: O_DIRECT, registered buffers, one thread.

    Its CPU is that of the whole process, workers of its ring included, less what the same command
    takes to start and end (`overhead`, measured with a single request). That is 0.15 s, more than
    fio takes to write a GiB, so a run must not be short."""

    def __init__(self, file, **options):
        if shutil.which("fio") is None:
            raise RuntimeError("fio is missing (Debian: fio)")
        self.file, self.writes = file, options["rw"] == "write"
        single = {name: value for name, value in options.items()
                  if name not in ("time_based", "runtime")}
        single.update(number_ios=1, **({"size": "1M"} if self.writes else {}))
        self.command = self.make_command(options)
        self.overhead = statistics.median(
            run_counted(self.make_command(single))[1] for _ in range(5))

    def make_command(self, options):
        return ["fio", "--name=yardstick", f"--filename={self.file}", "--ioengine=io_uring",
                "--direct=1", "--fixedbufs=1", "--thread", "--scramble_buffers=0",
                "--output-format=json", *(f"--{name}={value}" for name, value in options.items())]

    def run(self):
        """Bytes, seconds and CPU seconds of one run."""
        if self.writes and os.path.exists(self.file):
            os.unlink(self.file)
        output, used = run_counted(self.command)
        # Warnings may come before the object.
        job = json.loads(output[output.index("{"):])["jobs"][0]
        side = job["read"] if job["read"]["io_bytes"] else job["write"]
        return {"bytes": side["io_bytes"], "seconds": side["runtime"] / 1000,
                "requests": side["total_ios"], "cpu_seconds": used - self.overhead,
                "syncs": job.get("sync", {}).get("lat_ns", {}).get("N", 0)}


class StoreRows:
    """Rows 6 and 7: appends to and reads from one container on one disk, one reactor."""

    depth = 16
    reads = [("1 MiB", 1 << 20, 8), ("64 KiB", 64 << 10, 32), ("4 KiB", 4 << 10, 32)]

    def __init__(self, wanted, quick):
        self.wanted = wanted & self.numbers
        self.mib = 512 if quick else 2048
        self.seconds = 1 if quick else 3
        self.series = {}

    def prepare(self):
        self.dir = tempfile.mkdtemp(prefix="apus-store-", dir=os.environ.get("APUS_TEST_TMP"))
        self.fio = {}
        if 6 in self.wanted:
            # As many writes between syncs as the store has, found by a first run.
            first = self.append()  # Also the warm-up.
            group = max(1, round((first["bytes"] >> 20) / first["data_syncs"]))
            self.fio["append"] = Fio(
                f"{self.dir}/fio", rw="write", bs="1M", size=f"{2 * self.mib}M",
                iodepth=self.depth, fdatasync=group)
            self.group = group
        if 7 in self.wanted:
            os.mkdir(f"{self.dir}/reads")
            product("prepare", "--dir", f"{self.dir}/reads", "--mib", 1024)
            [file] = glob.glob(f"{self.dir}/reads/volume1/containers/*.data")
            for name, size, depth in self.reads:
                self.fio[name] = Fio(
                    file, rw="randread", bs=size, size="1G", iodepth=depth, runtime=self.seconds,
                    time_based=1, norandommap=1, randrepeat=0)

    def append(self, depth=depth):
        place = f"{self.dir}/append"
        os.mkdir(place)
        result = product("append", "--dir", place, "--mib", self.mib, "--depth", depth)
        shutil.rmtree(place)
        for name in ("bytes", "data_syncs", "journal_syncs", "commits"):
            result[name] = int(result[name])
        return result

    def record(self, name, run_product, first):
        series = self.series.setdefault(name, Series())
        for who in (["product", "fio"] if first else ["fio", "product"]):
            result = run_product() if who == "product" else self.fio[name].run()
            prefix = "" if who == "product" else "fio_"
            mib = result["bytes"] / (1 << 20)
            series.add(**{
                prefix + "mib_s": mib / result["seconds"],
                prefix + "cpu": result["cpu_seconds"] * GIB / result["bytes"],
                prefix + "us": result["cpu_seconds"] * 1e6 / max(result.get("requests", mib), 1)})
            if who == "product" and "data_syncs" in result:
                series.add(writes_per_sync=mib / result["data_syncs"])
            if result.get("syncs"):
                series.add(fio_writes_per_sync=mib / result["syncs"])
            os.sync()

    def round(self, number):
        first = number % 2 == 0
        if 6 in self.wanted:
            self.record("append", self.append, first)
            # An append is in flight until it is synced, a write of fio until it is written: with
            # twice the depth as many are at the disk.
            deeper = self.append(2 * self.depth)
            self.series["append"].add(
                deeper_mib_s=(deeper["bytes"] >> 20) / deeper["seconds"],
                deeper_cpu=deeper["cpu_seconds"] * GIB / deeper["bytes"])
        if 7 in self.wanted:
            for name, size, depth in self.reads:
                self.record(name, lambda size=size, depth=depth: product(
                    "read", "--dir", f"{self.dir}/reads", "--size", size, "--depth", depth,
                    "--seconds", self.seconds), first)

    def rows(self):
        rows = []
        names = ["append"] * (6 in self.wanted) + [n for n, _, _ in self.reads
                                                   if 7 in self.wanted]
        for name in names:
            found = self.series[name]
            detail = {key: found.median(key) for key in found}
            number, work = (6, f"append 1 MiB, depth {self.depth}") if name == "append" else (
                7, f"read {name}, depth {dict((n, d) for n, _, d in self.reads)[name]}")
            common = {
                "durability": f"sync: data and journal; fio: fdatasync every {self.group} writes"
                if number == 6 else "-",
                "cache": "O_DIRECT both", "detail": detail}
            small = name in ("64 KiB", "4 KiB")
            rows.append(make_row(
                number, work, "MiB/s", found["mib_s"], "fio io_uring", found["fio_mib_s"],
                at_least=0.95, **common))
            cpu = "us" if small else "cpu"
            rows.append(make_row(
                number, work + ": CPU", "us/read" if small else "CPU-s/GiB", found[cpu],
                "fio io_uring", found["fio_" + cpu], at_most=1.3, **common))
        return rows

    def close(self):
        shutil.rmtree(getattr(self, "dir", ""), ignore_errors=True)


class AppendRows(StoreRows):
    """Row 6 by itself, so that row 7 does not fall with it."""

    numbers = {6}
    title = "container store: appends beside fio"


class ReadRows(StoreRows):
    """Row 7."""

    numbers = {7}
    title = "container store: reads beside fio"


class Server:
    """A server process that tells its port in JSON and ends with its standard input."""

    def __init__(self):
        self.process = subprocess.Popen([DATAPATH_BENCH, "serve"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.port = json.loads(self.process.stdout.readline())["port"]

    def stop(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)


class RPCRows:
    """Row 8: the native RPC over loopback TCP, a process on each end, beside iperf3."""

    numbers = {8}
    title = "native RPC beside iperf3"

    def __init__(self, _, quick):
        self.mib, self.calls = (2048, 100_000) if quick else (4096, 300_000)
        self.seconds = 1 if quick else 2
        self.connections = os.cpu_count()
        self.series = Series()

    def prepare(self):
        if shutil.which("iperf3") is None:
            raise RuntimeError("iperf3 is missing (Debian: iperf3)")
        self.server = Server()
        self.port = free_port()
        self.iperf = subprocess.Popen(["iperf3", "-s", "-p", str(self.port)],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        product("send", "--port", self.server.port, "--mib", 256)

    def send(self, prefix="", *options):
        with Meter({"server": self.server.process.pid}) as meter:
            result = product("send", "--port", self.server.port, "--mib", self.mib,
                             "--connections", self.connections, *options)
        gib = result["bytes"] / GIB
        self.series.add(**{prefix + "gib_cpu": gib / (result["cpu_seconds"] + meter.cpu),
                           prefix + "gib_s": gib / result["seconds"]})

    def call(self, prefix="", *options):
        with Meter({"server": self.server.process.pid}) as meter:
            result = product("call", "--port", self.server.port, "--count", self.calls, *options)
        self.series.add(**{
            prefix + "us": (result["cpu_seconds"] + meter.cpu) * 1e6 / result["requests"],
            prefix + "calls_s": result["requests"] / result["seconds"]})

    def send_iperf(self):
        with Meter({"server": self.iperf.pid}) as meter:
            output, used = run_counted([
                "iperf3", "-c", "127.0.0.1", "-p", str(self.port), "-l", "1M", "-t",
                str(self.seconds), "-P", str(self.connections), "--json"])
        end = json.loads(output)["end"]["sum_received"]
        self.series.add(iperf_gib_cpu=end["bytes"] / GIB / (used + meter.cpu),
                        iperf_gib_s=end["bytes"] / GIB / end["seconds"])
        time.sleep(0.2)

    def round(self, number):
        steps = [self.send, self.send_iperf]
        for step in steps if number % 2 == 0 else reversed(steps):
            step()
        self.call()
        # Beside the rows: as gateway and datanode of one machine talk to each other.
        self.send("shared_memory_", "--shared", 1)
        self.call("shared_memory_", "--shared", 1)

    def rows(self):
        found = self.series
        detail = {key: found.median(key) for key in found}
        return [
            make_row(8, f"RPC 1 MiB, {self.connections} connections", "GiB/CPU-s",
                     found["gib_cpu"], "iperf3 -l 1M", found["iperf_gib_cpu"], at_least=1.2,
                     cache="no disk", detail=detail),
            make_row(8, "RPC 64 B calls, 64 in flight", "us CPU", found["us"], at_most=8,
                     judged="product", cache="no disk", detail=detail)]

    def close(self):
        if getattr(self, "server", None):
            self.server.stop()
        if getattr(self, "iperf", None):
            self.iperf.terminate()
            self.iperf.wait()
