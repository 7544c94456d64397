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

from rig import APUS, Cluster

KEYS = int(os.environ.get("APUS_TEST_KEYS", "40"))
REPAIR_AFTER = 2000


class Run:
    def __init__(self, cluster):
        self.cluster = cluster
        self.content = {}

    def apus(self, *arguments, check=True):
        """A command: it says what it has within a minute, or something hangs."""
        return self.cluster.run(APUS, *arguments, check=check, timeout=60)

    # What there is

    def safety(self):
        found = self.apus("admin", "safety", "--json", check=False)
        return json.loads(found.stdout) if found.stdout.startswith("{") else None

    def containers(self):
        return json.loads(self.apus("admin", "container", "list", "--json").stdout)

    def address(self, name):
        identity = next(pathlib.Path(self.cluster.dir).glob(f"{name}/**/datanode.id")).read_text()
        return next(node["address"] for node in
                    json.loads(self.apus("admin", "datanode", "list", "--json").stdout)
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
                self.apus("admin", "container", "close", str(row["id"]))
        # Also those of which SCM has not heard yet that they hold something.
        self.until("all that was written is in closed containers", lambda: all(
            row["state"] in ("CLOSED", "DELETED") for row in self.containers()), 60)

    def read_all(self, client):
        for name, body in self.content.items():
            found = client.get_object(Bucket="kept", Key=name)["Body"].read()
            assert found == body, name

    def verify_all(self):
        for name in self.content:
            found = self.apus(
                "admin", "replicas", "verify", f"/s3v/kept/{name}", check=False)
            assert found.returncode == 0, found.stdout + found.stderr

    # What happens

    def replicas(self, name):
        """The containers of which the datanode `name` has files."""
        found = pathlib.Path(self.cluster.dir, name).glob("**/container-*.data")
        return {int(path.stem.split("-")[1]) for path in found}

    def fullest(self):
        """The datanodes, those first that have most replicas: of some containers a node may have
        none, for no byte fell to its index."""
        return sorted((f"dn{number}" for number in range(1, 8)),
                      key=lambda name: -len(self.replicas(name)))

    def until_noticed(self, act):
        """Returns when SCM has found what is missing after `act`, or rebuilt it already."""
        before = self.safety()["repairsEnded"]
        act()

        def is_noticed():
            found = self.safety()
            return found and ((found["degradedBlocks"] or 0) > 0
                              or found["repairsEnded"] > before)
        self.until("it is noticed", is_noticed, 40)

    def node_lost(self, client):
        self.victim, first, second, *_ = self.fullest()
        victim, held = self.address(self.victim), self.replicas(self.victim)
        assert held, self.containers()
        self.until_noticed(lambda: self.cluster.kill(self.victim))
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
        for name in (first, second):
            self.cluster.kill(name)
        self.read_all(client)
        for name in (first, second):
            self.cluster.restart(name, "datanode")
        print("  every replica verified; all keys read with two others dead")

    def node_back(self, client):
        """What it has is not the container's any more, and goes."""
        self.until("all is whole", self.is_whole)
        self.cluster.restart(self.victim, "datanode")

        def is_clean():
            address = self.address(self.victim)
            return self.replicas(self.victim) <= {
                row["id"] for row in self.containers() if address in row["replicas"]}
        took = self.until("what the node has beside is removed", is_clean, 60)
        print(f"  it came back: its replicas, which others have by now, were removed {took:.1f} s later")

    def disk_emptied(self, client):
        name = self.fullest()[0]

        def empty():
            self.cluster.kill(name)
            volume = pathlib.Path(self.cluster.dir, name, "volume1")
            for entry in volume.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            self.apus("disk", "replaced", "--config", f"{self.cluster.dir}/etc/{name}.json",
                      str(volume))
            self.cluster.restart(name, "datanode")
        self.until_noticed(empty)
        old = self.cluster.leader("scm")
        self.cluster.kill(old)
        took = self.until("what the disk had is rebuilt", self.is_whole)
        print(f"  a disk emptied and {old}, which led, killed: whole again {took:.1f} s later")
        self.verify_all()
        self.cluster.restart(old, "scm")

    def byte_rotten(self, client):
        name, body = max(self.content.items(), key=lambda item: len(item[1]))
        found = self.apus(
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
        # Whoever reads it meets it; it is made good where it is.
        ended = (self.safety() or {}).get("repairsEnded", 0)
        began = time.monotonic()
        assert client.get_object(Bucket="kept", Key=name)["Body"].read() == body

        def is_healed():
            return kept(path) and self.is_whole()
        self.until("the rotten byte is made good", is_healed)
        took = time.monotonic() - began
        assert path.read_bytes()[offset] == body[1000]
        assert self.safety()["repairsEnded"] == ended
        self.verify_all()
        print(f"  a byte rotten in a replica on {nodes[place['node']]}: read, and healed in place "
              f"within {took:.1f} s")

    def run(self):
        client = self.cluster.client(retries={"max_attempts": 3}, read_timeout=30)
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


def kept(path):
    """Bad bytes of the volume of a container's data file that were replaced."""
    return list((path.parent.parent / "damaged").glob("bytes-*"))


class Narrow(Run):
    """A cluster as wide as its replication: what is damaged has nowhere else to go."""

    def index_of(self, name, number):
        """The data file of replica `number` of the group of `name`, and the place in it of the first
        bytes that the replica has of it."""
        found = json.loads(self.apus(
            "admin", "replicas", "verify", f"/s3v/kept/{name}", "--json", check=False).stdout)[0]
        container = int(found["block"].lstrip("#").split("/")[0])
        node = found["replicas"][number - 1]["node"]
        nodes = {self.address(f"dn{n}"): f"dn{n}" for n in range(1, 6)}
        path = next(pathlib.Path(self.cluster.dir, nodes[node]).glob(
            f"**/container-{container}.data"))
        body = self.content[name]
        return path, path.read_bytes().index(body[(number - 1) << 20:][:4096])

    def flip(self, path, offset):
        with open(path, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 4]))
        return byte

    def is_shown_whole(self):
        rows = self.containers()
        return self.is_whole() and not any(
            row["corruptIndexes"] or row["missingIndexes"] for row in rows
            if row["state"] == "CLOSED")

    def read_rotten(self, client, name):
        path, offset = self.index_of(name, 1)
        byte = self.flip(path, offset + 1000)
        began = time.monotonic()
        assert client.get_object(Bucket="kept", Key=name)["Body"].read() == self.content[name]
        # Here to be looked at, at the end as at the beginning.
        self.until("what was read is healed", lambda: kept(path), 30)
        took = time.monotonic() - began
        self.until("the replica counts as whole", self.is_shown_whole, 30)
        assert path.read_bytes()[offset + 1000] == byte
        bad = kept(path)[0].read_bytes()
        assert bad.startswith(b"apus-damaged 1\n") and bad[4096 + 1000] == byte ^ 4, bad[:500]
        print(f"  five datanodes, rs-3-2: a rotten byte that is read is healed {took:.1f} s later, "
              f"and the replica is whole {time.monotonic() - began:.1f} s later")

    def flip_unread(self, path, offset):
        """As `flip`, in a datanode that verifies all it has once it is started again."""
        name = path.relative_to(self.cluster.dir).parts[0]
        self.cluster.kill(name)
        (path.parent.parent / "scrubbed").unlink(missing_ok=True)
        byte = self.flip(path, offset)
        self.cluster.restart(name, "datanode")
        return byte

    def scrubbed_rotten(self, name):
        path, offset = self.index_of(name, 2)
        before = len(kept(path))
        byte = self.flip_unread(path, offset + 4096 + 77)
        began = time.monotonic()
        # Nobody reads it but the scrubber.
        self.until("what the scrubber finds is healed", lambda: len(kept(path)) > before, 60)
        self.until("the replica counts as whole", self.is_shown_whole, 30)
        assert path.read_bytes()[offset + 4096 + 77] == byte
        print(f"  a rotten byte that nobody reads is found by the scrubber, and healed within "
              f"{time.monotonic() - began:.1f} s")

    def index_rotten(self, name):
        """What the index has lost cannot be healed: the replica is made anew by its own node."""
        path, _ = self.index_of(name, 3)
        size = path.stat().st_size
        self.flip_unread(path, size - 4096 + 25)
        began = time.monotonic()
        aside = path.parent.parent / "damaged"
        self.until("the replica is moved aside", lambda: list(aside.glob("replica-*.data")), 60)
        self.until("it is rebuilt by its own node", self.is_shown_whole, 60)
        print(f"  a replica whose footer is rotten is moved aside, and rebuilt by the same node, within "
              f"{time.monotonic() - began:.1f} s")

    def run(self):
        client = self.cluster.client(retries={"max_attempts": 3}, read_timeout=30)
        client.create_bucket(Bucket="kept")
        for number in range(3):
            body = random.Random(number).randbytes((3 << 20) + number)
            client.put_object(Bucket="kept", Key=f"wide-{number}", Body=body)
            self.content[f"wide-{number}"] = body
        self.close_all()
        self.until("all is whole", self.is_shown_whole, 30)
        self.read_rotten(client, "wide-0")
        self.scrubbed_rotten("wide-1")
        self.index_rotten("wide-2")
        self.verify_all()
        self.read_all(client)


def on(run, datanodes, scms):
    cluster = Cluster(datanodes=datanodes, options=[
        "--scms", str(scms), "--set", f"scm.repair-after-ms={REPAIR_AFTER}"])
    try:
        cluster.start()
        run(cluster).run()
    finally:
        if os.environ.get("APUS_TEST_KEEP"):
            print(cluster.dir)
        cluster.destroy()


def main():
    print("what is lost is made anew", flush=True)
    on(Run, datanodes=7, scms=3)
    on(Narrow, datanodes=5, scms=1)
    print("passed")


if __name__ == "__main__":
    sys.exit(main())
