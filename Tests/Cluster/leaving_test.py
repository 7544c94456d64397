#!/usr/bin/env python3
"""Datanodes that leave, on a cluster of processes under load: one is decommissioned and switched
off, one is away for maintenance and comes back, one is put into service again half-way, one is
started twice. All keys are read and every replica verified, parity too.

Prints what it finds and 'passed'."""

import json
import pathlib
import random
import shutil
import subprocess
import sys
import time

from background import Background
from repair_test import Run as RepairRun
from rig import APUS, Cluster

REPAIR_AFTER = 2000
DEAD_AFTER = 6000
MIB = 1 << 20


class Load(Background):
    """Puts and reads keys until it is left; whatever fails is an error."""

    def __init__(self, client, prefix):
        super().__init__()
        self.client, self.prefix, self.content = client, prefix, {}
        self.errors, self.slowest = [], 0.0

    def work(self):
        number, chance = 0, random.Random(7)
        while not self.ended.is_set():
            name, body = f"{self.prefix}-{number % 50}", chance.randbytes(chance.choice([100, 60_000, MIB]))
            number += 1
            began = time.monotonic()
            try:
                self.client.put_object(Bucket="kept", Key=name, Body=body)
                self.content[name] = body
                other = chance.choice(list(self.content))
                found = self.client.get_object(Bucket="kept", Key=other)["Body"].read()
                assert found == self.content[other], other
            except Exception as error:  # All of them count.
                self.errors.append(f"{name}: {error!r}")
            self.slowest = max(self.slowest, time.monotonic() - began)
            time.sleep(0.02)


class Run(RepairRun):
    def nodes(self):
        return {row["address"]: row for row in
                json.loads(self.apus("admin", "datanode", "list", "--json").stdout)}

    def progress(self):
        found = self.apus("admin", "datanode", "progress", "--json", check=False)
        rows = json.loads(found.stdout)["datanodes"]
        return found.returncode, {row["address"]: row for row in rows}

    def disks(self):
        found = self.apus("admin", "datanode", "progress", "--json", check=False)
        return {(row["address"], row["volume"]): row for row in json.loads(found.stdout)["disks"]}

    def on_volume(self, name, volume):
        """The containers of which a volume has files."""
        found = pathlib.Path(self.cluster.dir, name, volume).glob("**/container-*.data")
        return {int(path.stem.split("-")[1]) for path in found}

    def state(self, address):
        row = self.progress()[1].get(address)
        return row["state"] if row else "in service"

    def is_clean(self, name):
        return not self.replicas(name)

    # What happens

    def decommission(self, client):
        name = self.fullest()[0]
        address, held = self.address(name), self.replicas(name)
        assert held
        with Load(client, "one") as load:
            time.sleep(1)
            said = self.apus("admin", "datanode", "decommission", address).stdout
            assert said == f"datanode {address} is decommissioning\n", said
            began, estimates = time.monotonic(), []

            def is_done():
                code, rows = self.progress()
                row = rows[address]
                if row["isUnderWay"]:
                    assert code == 1, code
                    if row.get("secondsLeft") is not None:
                        estimates.append((time.monotonic(), row["secondsLeft"]))
                    found = self.safety()
                    assert found["degradedBlocks"] == 0, found
                return row["state"] == "decommissioned"
            took = self.until("the datanode is decommissioned", is_done)
            end = time.monotonic()
            self.until("what it had is removed from it", lambda: self.is_clean(name), 60)
            self.cluster.kill(name)
            time.sleep(2 + DEAD_AFTER / 1000)
        assert not load.errors, load.errors[:5]
        told = "; ".join(f"{left} s left told {end - at:.1f} s before" for at, left in estimates[:3])
        print(f"  {name} with {len(held)} containers left within {took:.1f} s under load"
              f" ({told or 'no estimate in so short a time'}); slowest pair of requests"
              f" {load.slowest:.2f} s")
        self.content.update(load.content)
        # It is gone, and nobody is worried.
        page = self.apus("admin", "status", check=False)
        assert page.returncode == 0, page.stdout
        assert "1 dead, 7 healthy (1 decommissioned or in maintenance)" in page.stdout, page.stdout
        assert self.nodes()[address]["operation"] == "decommissioned"
        self.until("all is whole", self.is_whole, 30)
        self.read_all(client)
        self.verify_all()

    def maintenance(self, client):
        name = self.fullest()[0]
        address, held = self.address(name), self.replicas(name)
        self.apus("admin", "datanode", "maintenance", address, "--for", "2h")
        took = self.until(
            "the datanode is in maintenance", lambda: self.state(address) == "in maintenance")
        ended = self.safety()["repairsEnded"]
        self.cluster.kill(name)
        time.sleep((DEAD_AFTER + REPAIR_AFTER) / 1000 + 3)
        found = self.safety()
        assert found["degradedBlocks"] > 0, found
        assert found["repairsEnded"] == ended and all(
            row["repairs"] == 0 for row in found["replications"]), found
        with Load(client, "two") as load:
            self.read_all(client)
        assert not load.errors, load.errors[:5]
        self.content.update(load.content)
        self.cluster.restart(name, "datanode")
        self.apus("admin", "datanode", "recommission", address)
        self.until("all is whole", self.is_whole, 30)
        assert self.replicas(name) >= held, (self.replicas(name), held)
        assert self.safety()["repairsEnded"] == ended
        print(f"  {name} with {len(held)} containers was away, in maintenance after {took:.1f} s;"
              " nothing was rebuilt")

    def recommission(self, client):
        name = self.fullest()[0]
        address = self.address(name)
        self.apus("admin", "datanode", "decommission", address)
        time.sleep(0.3)
        self.apus("admin", "datanode", "recommission", address)
        self.until("nothing is copied any more", self.is_whole, 60)
        assert self.state(address) == "in service"
        self.read_all(client)
        self.verify_all()
        print(f"  {name} was put into service again at once; all replicas verified")

    def refusals(self):
        addresses = [row["address"] for row in self.nodes().values() if not row.get("operation")]
        found = self.apus("admin", "datanode", "decommission", *addresses[:3], check=False)
        assert found.returncode == 1, found
        assert "4 datanodes would be left in service, and rs-3-2-1024k" in found.stderr, found
        found = self.apus("admin", "datanode", "decommission", "nowhere:1", check=False)
        assert found.returncode == 1 and "there is no datanode nowhere:1" in found.stderr, found
        found = self.apus(
            "admin", "datanode", "maintenance", addresses[0], "--for", "soon", check=False)
        assert found.returncode == 1 and "as 90m, 2h or 3d" in found.stderr, found
        assert all(not row["isUnderWay"] for row in self.progress()[1].values())

    def double(self):
        """A datanode is started on a copy of another one's directory."""
        name = self.fullest()[0]
        address = self.address(name)
        settings = json.loads(pathlib.Path(self.cluster.dir, "etc", f"{name}.json").read_text())
        text = json.dumps(settings)
        copy = pathlib.Path(self.cluster.dir, "copy")
        shutil.copytree(pathlib.Path(self.cluster.dir, name), copy)
        text = text.replace(f"{self.cluster.dir}/{name}/", f"{copy}/").replace(
            f"\"{self.cluster.dir}/{name}\"", f"\"{copy}\"")
        changed = json.loads(text)
        changed["datanode"]["port"] = 0
        changed["datanode"].pop("metrics", None)
        path = pathlib.Path(self.cluster.dir, "etc", "copy.json")
        path.write_text(json.dumps(changed))
        log = pathlib.Path(self.cluster.dir, "log", "copy.log")
        with open(log, "w") as out:
            child = subprocess.Popen(
                [APUS, "datanode", "--config", str(path)], stdout=out, stderr=out)
            try:
                self.until("the copy is refused",
                           lambda: "one of them was started on a copy" in log.read_text(), 30)
                time.sleep(2)
                assert address in self.nodes(), self.nodes()
                assert self.nodes()[address]["state"] == "HEALTHY"
            finally:
                child.kill()
                child.wait()
        print(f"  a copy of {name} was refused")

    def disk_drained(self, client):
        """One disk of a datanode is taken out of use, and used again."""
        name = max((f"dn{number}" for number in range(1, 9)),
                   key=lambda name: len(self.on_volume(name, "volume2")))
        address, held = self.address(name), self.on_volume(name, "volume2")
        assert held
        volume = f"{self.cluster.dir}/{name}/volume2"
        with Load(client, "three") as load:
            said = self.apus("admin", "datanode", "drain-disk", address, volume).stdout
            assert "gets nothing new" in said, said

            def is_empty():
                assert self.safety()["degradedBlocks"] == 0
                return not self.disks()[(address, volume)]["isUnderWay"]
            took = self.until("the disk is empty", is_empty)
        assert not load.errors, load.errors[:5]
        self.content.update(load.content)
        assert not self.on_volume(name, "volume2")
        # It stays so over a restart, and the datanode goes on with its other disk.
        self.cluster.kill(name)
        self.cluster.restart(name, "datanode")
        self.until("all is whole", self.is_whole, 30)
        assert (address, volume) in self.disks()
        self.verify_all()
        self.apus("admin", "datanode", "keep-disk", address, volume)
        self.until("it is used again", lambda: not self.disks(), 30)
        found = self.apus("admin", "datanode", "drain-disk", address, "/nowhere", check=False)
        assert found.returncode == 1 and "has no volume /nowhere" in found.stderr, found
        print(f"  a disk of {name} with {len(held)} containers was empty {took:.1f} s later, under "
              "load; every replica verified")

    def disk_moved(self, client):
        """A machine is gone; one of its disks is put into another one."""
        self.close_all()
        serving = [name for name in self.fullest() if self.replicas(name)]
        old = serving[0]
        held = self.on_volume(old, "volume1")
        rows = {row["id"]: row for row in self.containers()}
        closed = {number for number in held if rows[number]["state"] == "CLOSED"}
        addresses = {name: self.address(name) for name in serving}

        def lacking(name):
            return {number for number in closed
                    if addresses[name] not in rows[number]["replicas"]}
        new = max(serving[1:], key=lambda name: len(lacking(name)))
        moved, address = lacking(new), addresses[new]
        if not moved:
            print("  no datanode lacks a replica that another has: no disk was moved")
            return
        path = pathlib.Path(self.cluster.dir, "etc", f"{new}.json")
        settings = json.loads(path.read_text())
        volume = f"{self.cluster.dir}/{new}/from-another"
        settings["datanode"]["volumes"].append(volume)
        self.cluster.kill(old)
        self.cluster.kill(new)
        pathlib.Path(self.cluster.dir, old, "volume1").rename(volume)
        path.write_text(json.dumps(settings))
        said = self.apus("disk", "moved", "--config", str(path), volume).stdout
        assert "is this one's from its next start on" in said, said
        self.cluster.restart(new, "datanode")

        def is_found():
            rows = {row["id"]: row for row in self.containers()}
            # One whose last key was replaced meanwhile goes.
            return all(address in rows[container]["replicas"] and
                       not rows[container]["missingIndexes"] for container in moved
                       if rows[container]["state"] == "CLOSED")
        took = self.until("what the disk holds is found where it is", is_found, 60)
        self.until("all is whole", self.is_whole, 60)
        self.read_all(client)
        self.verify_all()
        print(f"  the disk of {old} with {len(held)} containers was put into {new}: {len(moved)} "
              f"replicas taken over within {took:.1f} s, every replica verified")

    def run(self):
        client = self.cluster.client(retries={"max_attempts": 4}, read_timeout=30)
        client.create_bucket(Bucket="kept")
        self.write(client, 40, 1000)
        self.close_all()
        self.until("all is whole", self.is_whole, 30)
        self.decommission(client)
        self.maintenance(client)
        self.recommission(client)
        self.disk_drained(client)
        self.refusals()
        self.double()
        self.disk_moved(client)
        self.read_all(client)


def main():
    print("datanodes leave", flush=True)
    cluster = Cluster(datanodes=8, volumes=2, options=[
        "--set", f"scm.repair-after-ms={REPAIR_AFTER}", "--set", f"scm.dead-after-ms={DEAD_AFTER}",
        "--set", "scm.close-delay-ms=3000"])
    try:
        cluster.start()
        Run(cluster).run()
        print("passed")
    finally:
        cluster.destroy()


if __name__ == "__main__":
    sys.exit(main())
