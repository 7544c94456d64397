#!/usr/bin/env python3
"""What long loads meet: deletions that begin after the grace, containers that close, nodes that die
and come back, disks that fill up. No operation may fail, but for want of room.

Prints a line for each check and closes with 'N passed, N failed'. APUS_LOAD_SECONDS sets how long
the steady load runs (default 120), APUS_CLOSINGS how many containers the ingest closes (default
60)."""

import concurrent.futures
import json
import os
import pathlib
import random
import subprocess
import sys
import threading
import time
import traceback

from botocore.exceptions import ClientError

from rig import APUS, Cluster
from steady_load import SteadyLoad

SECONDS = int(os.environ.get("APUS_LOAD_SECONDS", "120"))
CLOSINGS = int(os.environ.get("APUS_CLOSINGS", "60"))


def eventually(condition, seconds, what):
    """Waits until `condition()` is true; fails after `seconds`, which is no promise of speed."""
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, what
        time.sleep(0.2)


def containers(cluster):
    """How many containers are in each state."""
    counts = {}
    for row in json.loads(cluster.apus("admin", "container", "list", "--json").stdout):
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    return counts


def nodes(cluster):
    return json.loads(cluster.apus("admin", "datanode", "list", "--json").stdout)


class Ingest:
    """Small keys written at a rate until told to stop, each once: a failure is a failure."""

    def __init__(self, cluster, rate=200):
        self.process = subprocess.Popen(
            [APUS, "bench", "put", "--rate", str(rate), "--size", "64k", "--clients", "64",
             "--duration", "3600s", "--replace", "2000", "--json"],
            env=cluster.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True)
        self.output = []
        self.reader = threading.Thread(
            target=lambda: self.output.append(self.process.stdout.read()))
        self.reader.start()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=300)
        finally:
            self.process.kill()
            self.reader.join()
        return json.loads(self.output[0])


def steady_load():
    """Keys are replaced for longer than replaced ones are kept."""
    cluster = Cluster().start()
    try:
        load = SteadyLoad(cluster, SECONDS).run()
        for line in load.lines():
            print("    " + line)
        assert not load.errors, load.errors
        assert not load.unhealthy, load.unhealthy
        deleted = max(sample.pending for sample in load.samples)
        assert deleted < 50_000, f"{deleted} blocks wait to be deleted"
        assert sum(load.samples[-1].containers.values()) < 100, load.samples[-1].containers
        # What was written is removed at the end; its space comes back, but for what is allocated
        # ahead for containers that are open.
        eventually(lambda: sum(node["used"] for node in nodes(cluster)) < 2 << 30, 240,
                   "the space of what was deleted did not come back")
        eventually(lambda: all(node["pendingDeletions"] + node["unreclaimedBlocks"] == 0
                               for node in nodes(cluster)), 60, "deletions stay pending")
        return f"{load.operations} operations in {load.seconds} s"
    finally:
        cluster.destroy()


def ingest_through_closings():
    """Containers close while keys are written; a node dies and comes back."""
    cluster = Cluster(options=["--set", "scm.container-bytes=1048576"]).start()
    try:
        client = cluster.client(retries={"max_attempts": 0, "mode": "standard"})
        client.create_bucket(Bucket="ingest")
        ingest = Ingest(cluster)
        failures, acknowledged, ended = [], {}, threading.Event()

        def put(number):
            generator = random.Random(number)
            index = 0
            while not ended.is_set():
                key, body = f"{number}/{index}", generator.randbytes(generator.choice(
                    [1000, 300_000, 4 << 20]))
                try:
                    client.put_object(Bucket="ingest", Key=key, Body=body)
                    acknowledged[key] = body if len(body) == 1000 else None
                except Exception as error:  # told below
                    failures.append(f"{key}: {error}")
                index += 1
                time.sleep(0.05)

        threads = [threading.Thread(target=put, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()

        def closed():
            return sum(count for state, count in containers(cluster).items() if state != "OPEN")

        eventually(lambda: closed() >= CLOSINGS // 3, 60 + CLOSINGS, "containers do not close")
        cluster.kill("dn2")
        time.sleep(20)  # Longer than until it is taken for dead.
        child = cluster.restart("dn2", "datanode")
        eventually(lambda: closed() >= CLOSINGS, 60 + CLOSINGS * 2, "containers do not close")
        ended.set()
        for thread in threads:
            thread.join()
        report = ingest.stop()
        assert not failures, failures[:5]
        assert report["errors"] == [], report["errors"]
        for key, body in acknowledged.items():
            if body is not None:
                assert client.get_object(Bucket="ingest", Key=key)["Body"].read() == body, key
        count = sum(row["count"] for row in report["operations"]) + len(acknowledged)
        told = f"{count} keys through {closed()} closings, none failed"
        child.terminate()
        child.wait()
        return told
    finally:
        cluster.destroy()


def full_disks():
    """A full cluster says so at once, and goes on by itself when there is room again."""
    options = ["--set", f"datanode.volume-limit-bytes={640 << 20}",
               "--set", "om.deletion-delay-ms=3000", "--set", "scm.close-delay-ms=1000"]
    cluster = Cluster(options=options).start()
    try:
        client = cluster.client(retries={"max_attempts": 0, "mode": "standard"})
        client.create_bucket(Bucket="full")
        body = random.Random(1).randbytes(8 << 20)
        keys, refusals, slowest = [], [], 0.0

        def put(index):
            nonlocal slowest
            start = time.time()
            try:
                client.put_object(Bucket="full", Key=f"k{index}", Body=body)
                keys.append(f"k{index}")
            except ClientError as error:
                refusals.append(error)
                slowest = max(slowest, time.time() - start)

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(put, range(400)))
        assert len(keys) > 20 and refusals, (len(keys), len(refusals))
        codes = {error.response["ResponseMetadata"]["HTTPStatusCode"] for error in refusals}
        assert codes == {507}, (codes, refusals[0])
        assert "full" in refusals[-1].response["Error"]["Message"], refusals[-1]
        for key in keys:
            assert client.get_object(Bucket="full", Key=key)["Body"].read() == body, key
        log = pathlib.Path(cluster.dir, "log", "scm1.log").read_text()
        assert "datanodes are full" in log, log[-500:]
        for key in keys:
            client.delete_object(Bucket="full", Key=key)

        def has_room():
            try:
                client.put_object(Bucket="full", Key="again", Body=body)
                return True
            except ClientError:
                return False

        eventually(has_room, 90, "no room after everything was deleted")
        assert client.get_object(Bucket="full", Key="again")["Body"].read() == body
        return f"{len(keys)} keys fit, {len(refusals)} refused, the slowest after {slowest:.2f} s"
    finally:
        cluster.destroy()


def stops_whenever_asked():
    """SIGTERM ends a cluster at once, in the moment it says that it is ready too."""
    for _ in range(8):
        cluster = Cluster().start()
        try:
            cluster.process.terminate()
            assert cluster.process.wait(timeout=30) == 0
            running = [path.name for path in pathlib.Path(cluster.dir, "run").glob("*.pid")
                       if pathlib.Path("/proc", path.read_text().strip()).exists()]
            assert not running, running
        finally:
            cluster.destroy()
    return "8 times"


def main():
    passed = failed = 0
    for check in [stops_whenever_asked, full_disks, ingest_through_closings, steady_load]:
        if sys.argv[1:] and check.__name__ not in sys.argv[1:]:
            continue
        start = time.time()
        try:
            told = check()
            passed += 1
            print(f"ok {check.__name__} ({time.time() - start:.1f} s): {told}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {check.__name__}")
            traceback.print_exc(file=sys.stdout)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
