"""Whether the cluster's answers are those of one copy while the disks of its members fill up or
hang.

Each OM and SCM has a file system of its own (an ext4 image of a loop device, in a mount namespace of
the test). Clients put, get and delete the same keys (`apus bench consistency`) while

- the file system of the leader gets full, and has room again;
- the disk of the leader hangs (`fsfreeze`: every write and sync waits in the kernel), and goes on;
- the same happens to a follower, which nobody may notice.

Every history must be linearizable. The time without a successful write after each fault is measured,
`apus admin status` must name the member and what to do, and the member must catch up by itself."""

import argparse
import contextlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

import histories
import namespaces
from disks import Disk

INSIDE = "APUS_DISKS_INSIDE"
NEEDED = ["unshare", "mount", "umount", "mkfs.ext4", "fsfreeze", "sync"]
MEMBERS = 3
# Within so many seconds the load has used up what the log had of disk before it was full.
LONGEST_FILL = 90
# The loads are ended when the last fault is over; if they are not, they end by themselves.
LONGEST_LOAD = 7200
# Writes are to go on within so many seconds of a fault, at default settings; one of a follower is to
# cost nothing. What is longer is marked. Only what no busy machine explains is a failure.
GOAL = {"leader": 2.0, "follower": 0.5}
LONGEST = 10.0


def enter():
    """Starts this program again where what it mounts is its own, or says why that cannot be."""
    namespaces.enter_with_mounts(INSIDE, NEEDED, "fsfreeze -f m; fsfreeze -u m;",
                                 "file systems that are mounted and frozen")


class Run:
    def __init__(self, cluster, disks, arguments):
        self.cluster, self.disks, self.arguments = cluster, disks, arguments
        self.failed = []
        self.done = []
        self.load = self.names = None

    def expect(self, is_so, what):
        if not is_so:
            print(f"  FAILED: {what}", flush=True)
            self.failed.append(what)

    # What is known of the cluster

    def apus(self, *arguments, timeout=30):
        return subprocess.run([APUS, *arguments, "--dir", self.cluster.dir], capture_output=True,
                              text=True, timeout=timeout, check=False)

    def findings(self):
        try:
            page = json.loads(self.apus("admin", "status", "--json").stdout)
        except (json.JSONDecodeError, subprocess.TimeoutExpired):
            return []
        return page["findings"]

    # Faults

    def begin_load(self):
        self.load = histories.Load(
            [APUS, "bench", "consistency", "--dir", self.cluster.dir, "--json",
             "--seconds", str(LONGEST_LOAD), "--workers", str(self.arguments.workers),
             "--seed", str(self.arguments.seed), "--out", self.arguments.out])
        # Fills the log, so that a full disk is met within seconds.
        with open(pathlib.Path(self.cluster.dir, "log", "names.err"), "w") as log:
            self.names = subprocess.Popen(
                [APUS, "bench", "om", "--dir", self.cluster.dir, "--bucket", "/s3v/names", "--json",
                 "--operation", "create", "--clients", "32", "--keep", "--scatter",
                 "--prefix", "n" * 900, "--rate", "500", "--duration", f"{LONGEST_LOAD}s"],
                stdout=subprocess.DEVNULL, stderr=log)

    def end_load(self):
        if self.load:
            self.load.kill()
        if self.names:
            self.names.kill()
            self.names.wait(timeout=60)

    def expect_load(self, name):
        """What a fault shows, it shows under load."""
        self.expect(self.load.runs, f"{name}: clients are at work")
        self.expect(self.names.poll() is None,
                    f"{name}: keys are opened: {self.cluster.tail('log/names.err')}")

    def fault(self, kind, noun, who):
        """One fault; notes when it was in force and until when."""
        name = f"{noun} {who}: {'disk full' if kind == 'full' else 'disk hangs'}"
        self.expect_load(name)
        leader = self.cluster.leader(noun)
        assert leader, f"{name}: no {noun} leads before it"
        others = [f"{noun}{number + 1}" for number in range(MEMBERS)]
        others.remove(leader)
        victim = leader if who == "leader" else random.choice(others)
        disk = self.disks[victim]
        # Freezing writes out what the file system holds, to the disk that all images share: not the
        # fault that is meant.
        subprocess.run(["sync", "--file-system", str(disk.path)], check=True)
        began = time.time()
        if kind == "full":
            disk.fill()
        else:
            disk.freeze(self.arguments.seconds)
        told, told_after, handed, pressed = None, None, None, 0
        # A full disk is met when the log's spare segments are used up: not at once.
        wants_change = kind == "full" and noun == "om" and who == "leader"
        until = began + self.arguments.seconds
        while time.time() < until or (
                wants_change and handed is None and time.time() < began + LONGEST_FILL):
            if kind == "full":
                disk.top_up()
            if noun == "scm" and time.time() > pressed + 2:
                self.press()
                pressed = time.time()
            if who == "leader" and handed is None and self.cluster.leader(noun, victim, seconds=0.3):
                handed = time.time() - began
                until = max(until, time.time() + 5)
            if told is None:
                told = next((f for f in self.findings() if f["what"].startswith(victim + " ")), None)
                told_after = time.time() - began
            time.sleep(0.3)
        if kind == "full":
            disk.free()
        disk.thaw()
        self.expect_load(name)
        caught_up = self.caught_up(noun, victim)
        self.done.append((name, who, began, time.time()))
        print(f"  {name} ({victim})"
              + (f", another led after {handed:.1f} s" if handed else "")
              + (f", caught up {caught_up:.1f} s after it" if caught_up is not None else ""))
        if told:
            print(f"    status after {told_after:.1f} s: {told['what']}\n    do: {told['advice']}",
                  flush=True)
        self.expect(caught_up is not None, f"{name}: {victim} caught up without a restart")
        self.expect(told, f"{name}: status names {victim}")
        if who == "follower":
            self.expect(self.cluster.leader(noun) == leader, f"{name}: {leader} leads as before")
        if who == "leader" and (noun == "om" or kind == "hangs"):
            self.expect(handed is not None, f"{name}: {victim} handed leadership over")

    def press(self):
        """Has SCM log something: a container is closed, and another made for what comes next."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            found = self.apus("admin", "container", "list", "--json")
            if found.returncode == 0:
                rows = [row for row in json.loads(found.stdout) if row["state"].lower() == "open"]
                if rows:
                    self.apus("admin", "container", "close", str(rows[0]["id"]))

    def caught_up(self, noun, victim):
        began = time.monotonic()
        while time.monotonic() < began + 30:
            rows = {row["id"]: row for row in self.cluster.roles(noun)}
            lead = next((row for row in rows.values() if row["role"] == "leader"), None)
            row = rows.get(victim)
            if lead and row and row["isReachable"] and \
                    row["appliedIndex"] + 2000 >= lead["appliedIndex"]:
                if not any(f["what"].startswith(victim + " ") for f in self.findings()):
                    return time.monotonic() - began
            time.sleep(0.2)
        return None

    def run(self):
        faults = [(kind, noun, who) for noun in self.arguments.nouns.split(",")
                  for who in self.arguments.who.split(",")
                  for kind in self.arguments.kinds.split(",")]
        self.begin_load()
        time.sleep(3)
        for fault in faults:
            self.fault(*fault)
            time.sleep(2)
        self.load.stop()
        report = self.load.report(900)
        histories.tell(report, f"{len(faults)} faults")
        for name, who, began, ended in self.done:
            longest, since = histories.longest(report["pauses"], began, ended)
            print(f"  {name}: without a write for {longest:.2f} s, from {since - began:.1f} s after it began"
                  + ("" if longest <= GOAL[who] else f", of {GOAL[who]} s")
                  if longest else f"  {name}: no pause of 0.3 s")
            self.expect(longest <= LONGEST,
                        f"{name}: writes go on within {LONGEST} s, not {longest:.2f}")
        self.expect(histories.are_linearizable(self.load, report, 1000),
                    "the histories are linearizable, and long enough")
        return self.failed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20, help="how long a fault lasts")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1 << 31))
    parser.add_argument("--nouns", default="om,scm")
    parser.add_argument("--who", default="leader,follower")
    parser.add_argument("--kinds", default="full,hangs")
    parser.add_argument("--out", default=".")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    print(f"disks: {MEMBERS} OMs, {MEMBERS} SCMs, each on a file system of its own, seed "
          f"{arguments.seed}", flush=True)
    cluster = Cluster(options=["--oms", str(MEMBERS), "--scms", str(MEMBERS)])
    with contextlib.ExitStack() as cleaning:
        # Each step whatever comes of those before: the last is done first.
        cleaning.callback(shutil.rmtree, cluster.dir, ignore_errors=True)
        disks = {}
        for noun in ["om", "scm"]:
            for number in range(MEMBERS):
                name = f"{noun}{number + 1}"
                disks[name] = Disk(pathlib.Path(cluster.dir, name))
                cleaning.callback(disks[name].unmount)
        cleaning.callback(cluster.destroy)
        if os.environ.get("APUS_TEST_KEEP"):
            cleaning.callback(
                shutil.copytree, pathlib.Path(cluster.dir, "log"),
                pathlib.Path(arguments.out, "disk-logs"), dirs_exist_ok=True)
        run = Run(cluster, disks, arguments)
        cleaning.callback(run.end_load)
        for disk in disks.values():
            cleaning.callback(disk.thaw)
        cluster.start()
        failed = run.run()
    print("passed" if not failed else f"FAILED, seed {arguments.seed}")
    return 0 if not failed else 1


if __name__ == "__main__":
    enter()
    from rig import APUS, Cluster
    sys.exit(main())
