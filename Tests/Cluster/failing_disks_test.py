#!/usr/bin/env python3
"""Datanodes' disks that get full, break or are gone, one after the other, under an S3 load of which
every answer is held against what was acknowledged.

    python Tests/Cluster/failing_disks_test.py [STEP…] [--seed N] [--out FOLDER]

7 datanodes of 2 volumes, rs-3-2, each volume an ext4 image on a loop device, in a mount namespace of
the test; each role is a process.

    full       a file system without a free block: its writers go elsewhere, and it is used again
               when there is room
    sectors    the end of the device is gone: EIO for who reads or writes there
    dead       everything fails with EIO (the file system's shutdown), also when the datanode starts
    readonly   everything that writes fails with EROFS, as after an error of the file system's
               metadata; then the disk is replaced as docs/guides/operations.md says
    gone       the file system is not there any more while the datanode runs (`umount -l`), nor when
               it starts, nor is its directory; nothing is written into that; then it is back
    narrow     a disk of a cluster of 5 datanodes fails: its replicas are rebuilt on the other disk of
               the same datanode
    allfull    no disk has a free block: PUT is answered with 507 within seconds, GET and DELETE
               work, and PUT does again by itself, when there is room or by deleting alone

Where root or loop devices cannot be had all is skipped, with the reason. Exit code 1 for a key that
is lost or wrong, an operation that clients would have given up, a disk that nobody is told of, or a
cluster that is not whole again."""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import chaos
import mixed_load
import namespaces
from botocore.exceptions import BotoCoreError, ClientError
from disks import Disk
from mixed_load import BUCKET
from rig import APUS
from role_cluster import Place, RoleCluster

INSIDE = "APUS_FAILING_DISKS_INSIDE"
NEEDED = ["unshare", "mount", "umount", "mkfs.ext4", "losetup", "sync"]
# Of rs-3-2 two more than a container needs; and as many.
DATANODES, NARROW, VOLUMES = 7, 5, 2
MIB = 1 << 20
# Sparse. The datanode leaves 256 MiB of it free, and SCM places nothing where less than as much
# again is free.
VOLUME_BYTES = 1024 * MIB
KEPT_FREE = 512 * MIB
# What is left beside for keys where a cluster is to be filled by them.
ROOM = 24 * MIB

# Keys of which all replicas are verified in a step; in the end it is all that nobody overwrites.
VERIFIED = 8
# An SDK repeats a request as often before its caller hears of the error (boto3's legacy mode).
MOST_TRIES = 5
# Bounds, in seconds, of a machine that is busy with other tests; named in what fails.
LONGEST_OPERATION = 30
LONGEST_TOLD = 20
LONGEST_REPAIR = 90
LONGEST_REUSE = 60
LONGEST_REFUSAL = 10


def enter():
    """Starts this program again where what it mounts is its own, or says why that cannot be."""
    namespaces.enter_with_mounts(INSIDE, NEEDED, "", "file systems on loop devices")


class Rig(chaos.Rig):
    """One OM, one SCM and one gateway on the machine's disk, datanodes on disks of their own."""

    def __init__(self, seed, datanodes=DATANODES):
        self.seed, self.troubles, self.disks = seed, [], {}
        self.cleaning = contextlib.ExitStack()
        self.dir = pathlib.Path(tempfile.mkdtemp(
            prefix="apus-failing-disks-", dir=os.environ.get("APUS_TEST_TMP")))
        self.cleaning.callback(shutil.rmtree, self.dir, ignore_errors=True)
        try:
            names = [f"dn{number + 1}" for number in range(datanodes)]
            self.cluster = RoleCluster(
                self.dir, 1, datanodes, dict.fromkeys(["om1", "scm1", "s3g1", *names], Place()), 1,
                chaos.SETTINGS, dict.fromkeys(names, VOLUMES))
            for name in names:
                for path in self.cluster.volumes_of(name):
                    self.disks[path] = Disk(path, VOLUME_BYTES)
                    self.cleaning.callback(self.disks[path].unmount)
            self.cleaning.callback(self.cluster.stop)
        except BaseException:
            self.cleaning.close()
            raise

    def is_troubled(self, name, since):
        """Nothing is done to the gateway."""
        return False

    # What is known

    def on(self, volume):
        """The containers of which a volume has files, but for those that are being made."""
        return {int(path.stem.split("-")[1]) for path in volume.glob("containers/container-*.data")}

    def closed_on(self, volume):
        closed = {row["id"] for row in self.cluster.containers() or [] if row["state"] == "CLOSED"}
        return self.on(volume) & closed

    def row_of(self, volume):
        """What a datanode says of one of its volumes; None if it does not answer."""
        rows = self.cluster.asked("admin", "datanode", "disks") or []
        return next((row for row in rows if row["disk"] == str(volume)), None)

    def findings(self, volume):
        page = self.cluster.asked("admin", "status") or {"findings": []}
        return [found for found in page["findings"] if str(volume) in found["what"]]

    def restart(self, role):
        role.kill()
        role.start()


class Run:
    def __init__(self, rig):
        self.rig, self.failed, self.used = rig, [], set()
        self.chance = random.Random(rig.seed)

    def expect(self, is_so, what):
        if not is_so:
            print(f"  FAILED: {what}", flush=True)
            self.failed.append(what)
        return is_so

    def until(self, what, why_not, seconds):
        """Waits until `why_not()` says nothing; how long that took, None (a failure) if it did not
        come."""
        began = time.monotonic()
        while True:
            reason = why_not()
            took = time.monotonic() - began
            if not reason:
                return took
            if took > seconds:
                self.expect(False, f"{what}: not within {seconds} s: {str(reason)[:1500]}")
                return None
            time.sleep(0.3)

    def tell(self, text):
        print(f"  {text}", flush=True)

    # Steps

    def step(self, name):
        tally = self.rig.load.tally
        self._figures(tally)
        before, began = len(self.failed), time.monotonic()
        print(f"{name}:", flush=True)
        try:
            getattr(self, name)()
        except Exception as error:  # what follows is to be seen as well
            self.expect(False, f"{name}: {type(error).__name__}: {error}")
        took, keys = time.monotonic() - began, self.read_all()
        count, told = self._figures(tally)
        self.tell(f"{count} operations in {took:.0f} s, {told}")
        self.tell(f"all {keys} keys read back right" if len(self.failed) == before
                  and not tally.violations else "FAILED")

    def _figures(self, tally):
        """What the load has met since it was last asked; (operations, the rest in words)."""
        with tally.lock:
            count = sum(tally.operations.values())
            errors = dict(tally.errors)
            examples = {kind: found[0] for kind, found in tally.examples.items()}
            slowest = {kind: row[0] for kind, row in tally.slowest.items()}
            tries, _ = tally.most_tries
            tally.operations.clear()
            tally.errors.clear()
            tally.examples.clear()
            tally.slowest.clear()
            tally.gaps.clear()
            tally.most_tries = (0, None)
        for kind, example in examples.items():
            self.tell(f"{errors[kind]} × {kind}, as {example[:200]}")
        longest = max(slowest.items(), key=lambda one: one[1], default=("none", 0))
        return count, (
            f"{sum(errors.values())} errors, of which an operation met {max(tries - 1, 0)} at most; "
            f"the longest took {longest[1]:.1f} s ({longest[0]})")

    def check_patience(self):
        """No operation was repeated, or took, longer than clients wait."""
        tries, what = self.rig.load.tally.most_tries
        self.expect(tries <= MOST_TRIES, f"{what} was tried {tries} times, more than {MOST_TRIES}")
        for kind, (took, *_) in list(self.rig.load.tally.slowest.items()):
            self.expect(took <= LONGEST_OPERATION, f"{kind} took {took:.1f} s")

    def read_all(self):
        final = chaos.Final(self.rig, None)
        final.read_all()
        return final.found["keysRead"]

    def fullest(self):
        """(role, volume) of a datanode that nothing was done to, and of which a volume has more
        closed replicas than all others."""
        found = max(((len(self.rig.closed_on(volume)), role.name, volume)
                     for role in self.rig.cluster.of("datanode") if role.name not in self.used
                     for volume in self.rig.cluster.volumes_of(role.name)))
        self.expect(found[0] > 0, f"{found[2]} has closed replicas")
        self.used.add(found[1])
        return self.rig.cluster[found[1]], found[2]

    # What must hold of a disk that does not work

    def is_told(self, role, volume):
        """SCM has heard that a volume is out; says it in the words of the commands."""
        took = self.until(f"{volume} is out", lambda: None if self.finding(volume)
                          else self.rig.findings(volume) or self.rig.row_of(volume), LONGEST_TOLD)
        found, row = self.finding(volume), self.rig.row_of(volume)
        if took is not None:
            self.tell(f"status after {took:.1f} s: {self.plain(found['what'])}")
            self.tell(f"  do: {found['advice']}")
            self.expect(row and row["isFailed"] and row["reason"] in found["what"],
                        f"admin datanode disks says that {volume} is out, and why: {row}")
            self.until(f"{role.name} says so in its log", lambda: None
                       if f"volume {volume} is out: " in role.said() else role.tail(600), LONGEST_TOLD)
        return took

    def finding(self, volume):
        return next((found for found in self.rig.findings(volume)
                     if f"{volume} is out: " in found["what"] and found["advice"]), None)

    def plain(self, text):
        return text.replace(str(self.rig.dir), "…")

    def goes_on(self, role, but):
        """The datanode takes part with its other volume."""
        other = next(path for path in self.rig.cluster.volumes_of(role.name) if path != but)
        node = self.rig.node(role)
        self.expect(role.runs and node and node["state"] == "HEALTHY",
                    f"{role.name} goes on: {node}")
        before = self.rig.on(other)
        took = self.until(f"{role.name} gets new replicas on {other.name}",
                          lambda: None if self.rig.on(other) - before else "none", LONGEST_REUSE)
        if took is not None:
            self.tell(f"{role.name} gets new replicas on {other.name}, {took:.1f} s later")

    def is_rebuilt(self, role, held):
        """What a volume had is whole elsewhere."""
        def why_not():
            rows = {row["id"]: row for row in self.rig.cluster.containers() or []}
            left = [rows[number] for number in held if number in rows
                    and (rows[number]["state"] in ("OPEN", "CLOSING")
                         or rows[number]["state"] == "CLOSED" and rows[number]["missingIndexes"])]
            return f"of {role.name}: {left[:2]}" if left else self.rig.why_degraded()
        took = self.until("all is at full redundancy", why_not, LONGEST_REPAIR)
        if took is not None:
            self.tell(f"its {len(held)} replicas are rebuilt, degradedBlocks 0, {took:.1f} s later")
        self.verify_kept()

    def verify_kept(self, count=VERIFIED):
        def verify(key):
            """Damage that is just met is healed, which may take a moment."""
            for _ in range(3):
                found = self.rig.verify(key)
                if found[0]:
                    break
                time.sleep(2)
            return key, *found
        keys = self.rig.keeper.keys if count is None else self.chance.sample(
            self.rig.keeper.keys, count)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for key, is_whole, groups in pool.map(verify, keys):
                if self.rig.load.registers[key].size:
                    self.expect(is_whole, f"every replica of {key} is whole: {json.dumps(groups)[:600]}")

    def is_back(self, role, volume):
        """The datanode has all its volumes, and what it has is right."""
        took = self.until(f"{role.name} has all its volumes", self.rig.why_not_whole, LONGEST_REPAIR)
        row = self.rig.row_of(volume)
        self.expect(row and not row["isFailed"], f"{volume} is in use: {row}")
        return took

    # The faults

    def full(self):
        role, volume = self.fullest()
        disk = self.rig.disks[volume]

        def still_open():
            return [row for row in self.rig.cluster.containers() or []
                    if row["id"] in self.rig.on(volume) and row["state"] == "OPEN"]
        self.until("it has a replica of an open container",
                   lambda: None if still_open() else "none", LONGEST_REUSE)
        held, were_open = self.rig.on(volume), len(still_open())
        disk.fill()
        self.tell(f"{role.name}/{volume.name}, with {len(held)} replicas, of which {were_open} are of "
                  "open containers, has no free block")
        took = self.until("no container on it is open", still_open, LONGEST_TOLD)
        if took is not None:
            self.tell(f"no container on it is open {took:.1f} s later")
        end = time.monotonic() + 5
        while time.monotonic() < end:
            disk.top_up()
            time.sleep(0.5)
        node, row = self.rig.node(role), self.rig.row_of(volume)
        self.expect(node and node["state"] == "HEALTHY" and not node["failedVolumes"],
                    f"{role.name} goes on, and its volume is not taken for broken: {node}")
        self.expect(row and row["available"] == 0, f"nothing is available on it: {row}")
        self.expect(f"volume {volume} is full" in role.log.read_text(),
                    f"{role.name} says in its log that {volume} is full")
        found = self.rig.findings(volume)
        if self.expect(found, f"status names {volume}"):
            self.tell(f"status: {self.plain(found[0]['what'])}; do: {found[0]['advice']}")
        self.goes_on(role, volume)
        self.check_patience()
        before = max(self.rig.on(volume), default=0)
        disk.free()
        took = self.until("it gets new replicas", lambda: None if any(
            number > before for number in self.rig.on(volume)) else "none", LONGEST_REUSE)
        if took is not None:
            self.tell(f"there is room again: it gets new replicas {took:.1f} s later")
        whole = self.until("all is whole", self.rig.why_not_whole, LONGEST_REPAIR)
        if whole is not None:
            self.tell(f"all whole {whole:.1f} s later")
        self.verify_kept()

    def sectors(self):
        role, volume = self.fullest()
        held = self.rig.on(volume)
        subprocess.run(["sync", "--file-system", str(volume)], check=True, timeout=60)
        self.rig.disks[volume].cut_short(0.02, for_good=True)
        self.tell(f"{role.name}/{volume.name}, with {len(held)} replicas: EIO beyond its first 2 %")
        self.is_told(role, volume)
        self.is_rebuilt(role, held)
        self.goes_on(role, volume)
        self.check_patience()
        self.replace(role, volume)

    def replace(self, role, volume):
        role.kill()
        self.rig.replace(role, volume)
        role.start()
        took = self.is_back(role, volume)
        if took is not None:
            self.tell(f"replaced by an empty disk: all whole {took:.1f} s later")

    def dead(self):
        role, volume = self.fullest()
        held = self.rig.on(volume)
        self.rig.disks[volume].shut_down()
        self.tell(f"{role.name}/{volume.name}, with {len(held)} replicas: EIO for everything")
        self.is_told(role, volume)
        self.is_rebuilt(role, held)
        self.goes_on(role, volume)
        self.check_patience()
        self.rig.restart(role)
        self.tell("the datanode is started again with it")
        self.is_told(role, volume)
        self.goes_on(role, volume)
        self.replace(role, volume)

    def narrow(self):
        role, volume = self.fullest()
        held = self.rig.on(volume)
        self.rig.disks[volume].shut_down()
        self.tell(f"{NARROW} datanodes; {role.name}/{volume.name}, with {len(held)} replicas: EIO for "
                  "everything")
        self.is_told(role, volume)
        self.is_rebuilt(role, held)
        self.goes_on(role, volume)
        role.kill()
        self.rig.remount(volume)
        role.start()
        took = self.is_back(role, volume)
        first, second = self.rig.cluster.volumes_of(role.name)
        twice = self.rig.on(first) & self.rig.on(second)
        if took is not None:
            self.tell(f"the disk works again after all, {len(twice)} replicas are on both: all whole "
                      f"{took:.1f} s later")
        told = [line for line in role.log.read_text().splitlines() if " is also on " in line]
        self.expect(not twice or told, f"{role.name} says in its log which ones it does not use")
        self.verify_kept()

    def readonly(self):
        role, volume = self.fullest()
        held = self.rig.on(volume)
        self.rig.disks[volume].refuse_writes()
        self.tell(f"{role.name}/{volume.name}, with {len(held)} replicas: EROFS for who writes")
        self.is_told(role, volume)
        self.is_rebuilt(role, held)
        self.goes_on(role, volume)
        self.check_patience()
        self.replace_by_the_guide(role, volume)

    def replace_by_the_guide(self, role, volume):
        """docs/guides/operations.md, "A disk is lost": the new disk is mounted in the place of the old
        one, `apus disk replaced`, and a restart. A restart without it changes nothing."""
        disk = self.rig.disks[volume]
        is_unmounted = disk.unmount(1)
        self.tell("it can be unmounted while the datanode runs" if is_unmounted
                  else "it cannot be unmounted while the datanode runs: umount -l")
        if not is_unmounted:
            disk.vanish()
        disk.make()
        disk.mount()
        self.rig.restart(role)
        self.is_told(role, volume)
        self.expect({path.name for path in volume.iterdir()} == {"lost+found"},
                    f"nothing is on the new disk before it is said so: {list(volume.iterdir())}")
        said = subprocess.run(
            [APUS, "disk", "replaced", "--config", str(self.rig.cluster.config(role.name)),
             str(volume)], capture_output=True, text=True, timeout=60, check=False)
        self.expect(said.returncode == 0, f"disk replaced: {said.stderr}")
        self.tell(f"disk replaced: {self.plain(said.stdout.strip())}")
        self.rig.restart(role)
        took = self.is_back(role, volume)
        if took is not None:
            self.tell(f"started again: all whole {took:.1f} s later")
        self.verify_kept()

    def gone(self):
        role, volume = self.fullest()
        disk, held = self.rig.disks[volume], self.rig.on(volume)
        disk.vanish()
        self.tell(f"{role.name}/{volume.name}, with {len(held)} replicas, is not mounted any more")
        self.is_told(role, volume)
        self.is_rebuilt(role, held)
        self.goes_on(role, volume)
        self.check_patience()
        self.is_untouched(volume, "the datanode ran")
        self.rig.restart(role)
        self.tell("the datanode is started again without it")
        self.is_told(role, volume)
        self.is_untouched(volume, "it was started without it")
        role.kill()
        volume.rmdir()
        role.start()
        self.tell("and again without its directory")
        self.is_told(role, volume)
        self.expect(not volume.exists(), f"{volume} was not made")
        self.goes_on(role, volume)
        self.mount_again(role, volume)
        # Nobody writes now, and what is read is open already.
        with self.rig.load.rest():
            disk.vanish()
            self.tell("it is gone again, and nobody asks for anything")
            self.is_told(role, volume)
            self.is_untouched(volume, "the datanode ran")
        self.stop_in_order(role)
        self.is_untouched(volume, "the datanode stopped")
        self.mount_again(role, volume)
        self.verify_kept()

    def mount_again(self, role, volume):
        if role.runs:
            role.kill()
        volume.mkdir(exist_ok=True)
        self.rig.disks[volume].mount()
        role.start()
        took = self.is_back(role, volume)
        if took is not None:
            self.tell(f"mounted again: all whole {took:.1f} s later")

    @staticmethod
    def stop_in_order(role):
        role.is_killed = True
        role.process.terminate()
        role.process.wait(timeout=60)

    def is_untouched(self, volume, when):
        found = sorted(str(path.relative_to(volume)) for path in volume.rglob("*"))
        self.expect(not found, f"nothing is in the mount point of {volume} after {when}: {found}")

    def allfull(self):
        self.client = mixed_load.client_of(
            f"http://{self.rig.cluster['s3g1'].address}", self.rig.cluster.credentials)
        self.bodies = {}
        disks = self.rig.disks.values()
        for disk in disks:
            disk.fill()
        self.tell(f"no volume of {DATANODES} datanodes has a free block")
        self.is_refused()
        for disk in disks:
            disk.top_up()
        self.serves_what_it_has()
        for disk in disks:
            disk.free()
        self.takes_again("the ballast is gone", 5)
        whole = self.until("all is whole", self.rig.why_not_whole, LONGEST_REPAIR)
        if whole is not None:
            self.tell(f"all whole {whole:.1f} s later")
        # So far that what clients write fills the rest.
        for disk in disks:
            disk.fill(but=KEPT_FREE + ROOM)
        fitted = self.is_refused()
        self.serves_what_it_has()
        for key in list(self.bodies):
            self.delete(key)
        self.takes_again("what was put is deleted", max(fitted, 5))
        for disk in disks:
            disk.free()
        self.until("all is whole", self.rig.why_not_whole, LONGEST_REPAIR)
        self.verify_kept()

    def put(self, size=4 * MIB):
        """The answer: None, or the error, with the seconds it took."""
        key = f"filling/{len(self.bodies):05d}-{self.chance.randrange(1 << 30)}"
        body = self.chance.randbytes(size)
        began, error = time.monotonic(), None
        try:
            self.client.put_object(Bucket=BUCKET, Key=key, Body=body)
            self.bodies[key] = body
        except (ClientError, BotoCoreError) as failure:
            error = failure
        return error, time.monotonic() - began

    def delete(self, key):
        self.client.delete_object(Bucket=BUCKET, Key=key)
        del self.bodies[key]

    @staticmethod
    def kind(error):
        """As `507 InsufficientStorage`."""
        if not isinstance(error, ClientError):
            return type(error).__name__
        return (f"{error.response['ResponseMetadata']['HTTPStatusCode']} "
                f"{error.response['Error']['Code']}")

    def is_refused(self):
        """PUT is, for want of room, three times one after the other; how many still fitted before."""
        began, fitted, refusals = time.monotonic(), 0, []
        others = collections.Counter()
        while len(refusals) < 3 and time.monotonic() < began + 60:
            error, took = self.put()
            if error is None:
                fitted += 1
                refusals = []
            elif self.kind(error) == "507 InsufficientStorage":
                refusals.append((took, error))
            else:
                others[f"{self.kind(error)} after {took:.1f} s"] += 1
                time.sleep(0.5)
        self.expect(not others, f"PUT fails with nothing but 507: {dict(others)}")
        if not self.expect(len(refusals) == 3, "PUT is refused with 507 InsufficientStorage"):
            return fitted
        slowest = max(took for took, _ in refusals)
        message = refusals[-1][1].response["Error"]["Message"]
        self.tell(f"{fitted} keys of 4 MiB fitted; PUT is refused within {slowest:.2f} s: "
                  f"507 InsufficientStorage: {message}")
        self.expect(slowest <= LONGEST_REFUSAL, f"PUT is refused within {LONGEST_REFUSAL} s")
        self.expect("full" in message, f"the message says what is missing: {message}")
        return fitted

    def serves_what_it_has(self):
        """GET and DELETE, while nothing fits."""
        began = time.monotonic()
        keys = self.read_all()
        for key, body in self.bodies.items():
            found = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            self.expect(found == body, f"{key} is what was put")
        read = time.monotonic() - began
        keeper = self.rig.keeper
        began = time.monotonic()
        gone = next(key for key in keeper.keys if self.rig.load.registers[key].size)
        keeper.write(
            gone, None, "delete", lambda client, body, metadata: client.delete_object(
                Bucket=BUCKET, Key=gone))
        deleted = time.monotonic() - began
        keeper.read(gone, "get")
        self.tell(f"{keys + len(self.bodies)} keys are read within {read:.1f} s, one is deleted within "
                  f"{deleted:.3f} s")
        page = self.rig.cluster.asked("admin", "status") or {"findings": []}
        found = [found for found in page["findings"] if "the cluster is full" in found["what"]]
        if self.expect(found and found[0]["severity"] == "outage", "status says that all is full"):
            self.tell(f"status: {found[0]['what']}; do: {found[0]['advice']}")

    def takes_again(self, when, count):
        """As many PUTs as that succeed, which is more than what was left."""
        first = self.until(f"PUT works again after {when}", lambda: self.put()[0], LONGEST_REUSE)
        wanted = len(self.bodies) + count - 1

        def refused():
            while len(self.bodies) < wanted:
                error, _ = self.put()
                if error:
                    return f"{wanted - len(self.bodies)} to come: {error}"
            return None
        rest = self.until(f"{count} PUTs succeed after {when}", refused, LONGEST_REUSE)
        if None not in (first, rest):
            self.tell(f"{when}: by itself PUT works again {first:.1f} s later; {count} keys of 4 MiB "
                      f"were put within {first + rest:.1f} s")


STEPS = ["full", "sectors", "dead", "readonly", "gone", "allfull"]
# In a cluster of their own.
NARROW_STEPS = ["narrow"]


def run(rig, steps):
    """What failed."""
    began = time.monotonic()
    rig.begin()
    run = Run(rig)
    rig.load.pace = 0.03
    rig.load.start()
    try:
        run.until("all is whole, and each volume has closed replicas",
                  lambda: rig.why_not_whole() or [str(path) for path in rig.disks
                                                  if not rig.closed_on(path)], 60)
        print(f"{len(rig.cluster.of('datanode'))} datanodes with {len(rig.disks)} volumes run, each "
              f"of which has closed replicas, after {time.monotonic() - began:.0f} s", flush=True)
        for step in steps:
            run.step(step)
        run.verify_kept(None)
    finally:
        rig.load.stop()
    tally = rig.load.tally
    for role in rig.cluster.roles_by_name.values():
        run.expect(role.runs, f"{role.name} runs: {role.tail(600)}")
    run.expect(not tally.violations, f"{len(tally.violations)} violations")
    print(f"bytes lost: {tally.lost_bytes}", flush=True)
    return run.failed


def run_on(datanodes, steps, arguments):
    """The steps on a cluster of their own; what failed."""
    rig = Rig(arguments.seed, datanodes)
    failed = ["it did not end"]
    try:
        failed = run(rig, steps)
    finally:
        if failed or os.environ.get("APUS_TEST_KEEP"):
            folder = pathlib.Path(arguments.out, f"failing-disks-logs-{datanodes}").absolute()
            shutil.copytree(rig.dir / "log", folder, dirs_exist_ok=True)
            print(f"the logs of all roles are in {folder}")
        rig.close()
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help=" ".join(STEPS + NARROW_STEPS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default=".", help="where logs go when something failed")
    arguments = parser.parse_args()
    wanted = arguments.steps or STEPS + NARROW_STEPS
    unknown = set(wanted) - set(STEPS + NARROW_STEPS)
    if unknown:
        parser.error(f"no such step: {' '.join(sorted(unknown))}; there are "
                     + " ".join(STEPS + NARROW_STEPS))
    enter()
    signal.signal(signal.SIGTERM, chaos.end_once)
    print(f"failing disks: datanodes of {VOLUMES} volumes, rs-3-2, seed {arguments.seed}", flush=True)
    began, failed = time.monotonic(), []
    for datanodes, known in [(DATANODES, STEPS), (NARROW, NARROW_STEPS)]:
        steps = [step for step in known if step in wanted]
        if steps:
            failed += run_on(datanodes, steps, arguments)
    print(f"{f'FAILED: {len(failed)}' if failed else 'passed'} in {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
