#!/usr/bin/env python3
"""What is lost is made anew: a datanode that dies for good, one that comes back, a disk that was
emptied, a byte that rotted, on a cluster of processes with several SCMs whose leader is killed
meanwhile. Every key is read and every replica verified afterwards, parity too.

Prints what it finds and 'passed'."""

import concurrent.futures
import json
import os
import pathlib
import random
import shutil
import sys
import time

from rig import Cluster

KEYS = int(os.environ.get("APUS_TEST_KEYS", "40"))
REPAIR_AFTER = 2000


class Run:
    def __init__(self, cluster):
        self.cluster = cluster
        self.content = {}

    # What there is

    def safety(self):
        found = self.cluster.apus("admin", "safety", "--json", check=False)
        return json.loads(found.stdout) if found.stdout.startswith("{") else None

    def containers(self):
        return json.loads(self.cluster.apus("admin", "container", "list", "--json").stdout)

    def address(self, name):
        identity = next(pathlib.Path(self.cluster.dir).glob(f"{name}/**/datanode.id")).read_text()
        return next(node["address"] for node in
                    json.loads(self.cluster.apus("admin", "datanode", "list", "--json").stdout)
                    if node["id"] == identity.strip())

    def until(self, what, holds, seconds=90):
        began = time.monotonic()
        while not holds():
            if time.monotonic() > began + seconds:
                logs = "\n".join(
                    f"--- {log.name}\n{log.read_text()[-1500:]}"
                    for log in sorted(pathlib.Path(self.cluster.dir, "log").glob("*.log")))
                raise AssertionError(
                    f"not within {seconds} s: {what}; {self.safety()}\n{self.containers()}\n{logs}")
            time.sleep(0.2)
        return time.monotonic() - began

    def is_whole(self):
        found = self.safety()
        return (found is not None and found["degradedBlocks"] == 0 and found["isKnown"]
                and all(row["missingReplicas"] == 0 and row["repairs"] == 0
                        for row in found["replications"]))

    # What is done

    def write(self, client, count, seed):
        def put(number):
            body = random.Random(seed + number).randbytes(
                random.Random(seed - number).choice([1, 5000, 1 << 20, (5 << 20) + 77]))
            client.put_object(Bucket="kept", Key=f"key-{seed}-{number}", Body=body)
            return f"key-{seed}-{number}", body
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            self.content.update(pool.map(put, range(count)))

    def close_all(self):
        for row in self.containers():
            if row["state"] == "OPEN":
                self.cluster.apus("admin", "container", "close", str(row["id"]))
        self.until("all that was written is in closed containers", lambda: all(
            row["state"] in ("CLOSED", "DELETED") for row in self.containers()
            if row["usedBytes"] > 0), 60)

    def read_all(self, client):
        for name, body in self.content.items():
            found = client.get_object(Bucket="kept", Key=name)["Body"].read()
            assert found == body, name

    def verify_all(self):
        for name in self.content:
            found = self.cluster.apus(
                "admin", "replicas", "verify", f"/s3v/kept/{name}", check=False)
            assert found.returncode == 0, found.stdout + found.stderr

    # What happens

    def node_lost(self, client):
        victim = self.address("dn2")
        held = [row["id"] for row in self.containers() if victim in row["replicas"]
                and row["usedBytes"] > 0]
        assert held, self.containers()
        self.cluster.kill("dn2")
        self.until("it is noticed", lambda: (self.safety() or {}).get("degradedBlocks", 0) > 0, 40)
        leader = self.cluster.leader("scm")
        took = self.until("the lost node's replicas are rebuilt", self.is_whole)
        rows = {row["id"]: row for row in self.containers()}
        for container in held:
            assert victim not in rows[container]["replicas"], rows[container]
            assert not rows[container]["missingIndexes"], rows[container]
        print(f"  a node with {len(held)} containers lost: whole again {took:.1f} s later "
              f"({leader} leads)")
        self.verify_all()
        # What was rebuilt bears the loss of p others.
        self.cluster.kill("dn3")
        self.cluster.kill("dn4")
        self.read_all(client)
        self.cluster.restart("dn3", "datanode")
        self.cluster.restart("dn4", "datanode")
        print("  every replica verified; all keys read with two others dead")

    def node_back(self, client):
        """What it has is not the container's any more, and goes."""
        self.until("all is whole", self.is_whole)
        self.cluster.restart("dn2", "datanode")
        folder = pathlib.Path(self.cluster.dir, "dn2")

        def is_clean():
            members = {row["id"] for row in self.containers()
                       if self.address("dn2") in row["replicas"]}
            there = {int(path.stem.split("-")[1]) for path in folder.glob("**/container-*.data")}
            return there <= members
        took = self.until("what the node has beside is removed", is_clean, 60)
        print(f"  it came back: its replicas, which others have by now, were removed {took:.1f} s later")

    def disk_emptied(self, client):
        self.cluster.kill("dn5")
        volume = pathlib.Path(self.cluster.dir, "dn5", "volume1")
        for entry in volume.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        self.cluster.apus(
            "disk", "replaced", "--config", f"{self.cluster.dir}/etc/dn5.json", str(volume))
        self.cluster.restart("dn5", "datanode")
        self.until("it is noticed", lambda: (self.safety() or {}).get("degradedBlocks", 0) > 0, 40)
        old = self.cluster.leader("scm")
        self.cluster.kill(old)
        took = self.until("what the disk had is rebuilt", self.is_whole)
        print(f"  a disk emptied and {old}, which led, killed: whole again {took:.1f} s later")
        self.verify_all()
        self.cluster.restart(old, "scm")

    def byte_rotten(self, client):
        name, body = max(self.content.items(), key=lambda item: len(item[1]))
        found = self.cluster.apus(
            "admin", "replicas", "verify", f"/s3v/kept/{name}", "--json", check=False)
        group = json.loads(found.stdout)[0]
        container, place = int(group["block"].lstrip("#").split("/")[0]), group["replicas"][0]
        nodes = {self.address(f"dn{number}"): f"dn{number}" for number in range(1, 8)}
        path = next(pathlib.Path(self.cluster.dir, nodes[place["node"]]).glob(
            f"**/container-{container}.data"))
        # Index 1 has the first bytes of the key, wherever the container has put them.
        offset = path.read_bytes().index(body[:4096]) + 1000
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(bytes([body[1000] ^ 4]))
        # A reader meets it, or whoever looks; it may be rebuilt before anybody has asked.
        ended = (self.safety() or {}).get("repairsEnded", 0)
        began = time.monotonic()

        def is_rebuilt():
            self.cluster.apus("admin", "replicas", "verify", f"/s3v/kept/{name}", check=False)
            return (self.safety() or {}).get("repairsEnded", 0) > ended and self.is_whole()
        self.until("the rotten replica is replaced", is_rebuilt)
        took = time.monotonic() - began
        self.verify_all()
        print(f"  a byte rotten in a replica on {nodes[place['node']]}: met and whole again within "
              f"{took:.1f} s")

    def run(self):
        client = self.cluster.client(retries={"max_attempts": 8})
        client.create_bucket(Bucket="kept")
        self.write(client, KEYS, 1000)
        for number in range(0, KEYS, 5):
            client.delete_object(Bucket="kept", Key=f"key-1000-{number}")
            del self.content[f"key-1000-{number}"]
        self.close_all()
        self.until("all is whole", self.is_whole, 30)
        self.node_lost(client)
        self.write(client, KEYS // 4, 2000)
        self.node_back(client)
        self.close_all()
        self.disk_emptied(client)
        self.byte_rotten(client)
        self.read_all(client)


def main():
    print("what is lost is made anew", flush=True)
    cluster = Cluster(datanodes=7, options=[
        "--scms", "3", "--set", f"scm.repair-after-ms={REPAIR_AFTER}"])
    try:
        cluster.start()
        Run(cluster).run()
        print("passed")
    finally:
        if os.environ.get("APUS_TEST_KEEP"):
            print(cluster.dir)
        cluster.destroy()


if __name__ == "__main__":
    sys.exit(main())
