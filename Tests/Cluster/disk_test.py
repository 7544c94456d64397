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
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

import histories

INSIDE = "APUS_DISKS_INSIDE"
NEEDED = ["unshare", "mount", "mkfs.ext4", "fsfreeze", "losetup", "fallocate"]
MEMBERS = 3
# Room for the log's segments and the tables, and little enough to be filled at once.
IMAGE = 768 << 20
# Within so many seconds the load has used up what the log had of disk before it was full.
LONGEST_FILL = 90
# Writes are to go on within so many seconds of a fault, at default settings; one of a follower is to
# cost nothing. What is longer is marked. Only what no busy machine explains is a failure.
GOAL = {"leader": 2.0, "follower": 0.5}
LONGEST = 10.0


def skip(reason):
    print(f"SKIPPED {pathlib.Path(sys.argv[0]).name}: {reason}")
    sys.exit(0)


def enter():
    """Starts this program again where what it mounts is its own; says so where that cannot be."""
    if os.environ.get(INSIDE):
        return
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if os.geteuid() != 0:
        skip("it needs root, for file systems")
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing:
        skip("it needs " + " ".join(missing))
    wrapper = ["unshare", "--mount", "--propagation", "private"]
    with tempfile.TemporaryDirectory(prefix="apus-disks-") as folder:
        trial = subprocess.run(
            [*wrapper, "sh", "-ec", f"truncate -s 64M {folder}/image; "
             f"mkfs.ext4 -q {folder}/image; mkdir {folder}/m; mount -o loop {folder}/image {folder}/m;"
             f"fsfreeze -f {folder}/m; fsfreeze -u {folder}/m; umount {folder}/m"],
            capture_output=True, text=True, check=False)
    if trial.returncode != 0:
        skip("file systems cannot be mounted and frozen: " + trial.stderr.strip())
    os.environ[INSIDE] = "1"
    sys.exit(subprocess.run([*wrapper, sys.executable, *sys.argv], check=False).returncode)


class Disk:
    """A file system for the directory of one member."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.image = self.path.parent / f"{self.path.name}.image"
        self.filler = self.path / "filler"
        self.guard = None
        self.path.mkdir()
        with open(self.image, "wb") as image:
            image.truncate(IMAGE)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(self.image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.path)], check=True)

    def fill(self):
        """Takes all room there is, to the last block, for as long as `free` is not called."""
        with open(self.filler, "wb") as filler:
            for piece in [64 << 20, 1 << 20, 4096]:
                end = filler.seek(0, os.SEEK_END)
                while True:
                    try:
                        os.posix_fallocate(filler.fileno(), end, piece)
                    except OSError:
                        break
                    end += piece
        self.top_up()

    def top_up(self):
        """Takes what was freed since: segments of the log that went back."""
        with open(self.filler, "ab") as filler:
            while True:
                try:
                    end = filler.seek(0, os.SEEK_END)
                    os.posix_fallocate(filler.fileno(), end, 4096)
                except OSError:
                    return

    def free(self):
        self.filler.unlink(missing_ok=True)

    def freeze(self, seconds):
        """Hangs for so long. It goes on even if this process dies, else nothing that waits for the
        disk could ever be ended."""
        self.guard = subprocess.Popen(
            ["sh", "-c", 'fsfreeze -f "$0" && sleep "$1"; fsfreeze -u "$0"', str(self.path),
             str(seconds)], start_new_session=True)

    def thaw(self):
        if self.guard:
            self.guard.wait()
            self.guard = None

    def unmount(self):
        self.thaw()
        for _ in range(50):
            if subprocess.run(["umount", str(self.path)], capture_output=True,
                              check=False).returncode == 0:
                return
            time.sleep(0.1)


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

    def roles(self, noun):
        found = self.apus("admin", noun, "roles", "--json")
        return json.loads(found.stdout) if found.returncode == 0 else []

    def leader(self, noun, but=None, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for member in self.roles(noun):
                if member["role"] == "leader" and member["isReachable"] and member["id"] != but:
                    return member["id"]
            time.sleep(0.1)
        return None

    def findings(self):
        try:
            page = json.loads(self.apus("admin", "status", "--json").stdout)
        except (json.JSONDecodeError, subprocess.TimeoutExpired):
            return []
        return page["findings"]

    # Faults

    def begin_load(self, seconds):
        self.load = subprocess.Popen(
            [APUS, "bench", "consistency", "--dir", self.cluster.dir, "--json",
             "--seconds", str(seconds), "--workers", str(self.arguments.workers),
             "--seed", str(self.arguments.seed), "--out", self.arguments.out],
            stdout=subprocess.PIPE, text=True)
        # Fills the log, so that a full disk is met within seconds.
        self.names = subprocess.Popen(
            [APUS, "bench", "om", "--dir", self.cluster.dir, "--bucket", "/s3v/names", "--json",
             "--operation", "create", "--clients", "32", "--keep", "--scatter",
             "--prefix", "n" * 900, "--rate", "500", "--duration", f"{seconds}s"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def fault(self, kind, noun, who):
        """One fault; notes when it was in force and until when."""
        leader = self.leader(noun)
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
            if who == "leader" and handed is None and self.leader(noun, victim, seconds=0.3):
                handed = time.time() - began
                until = max(until, time.time() + 5)
            if told is None:
                told = next((f for f in self.findings() if f["what"].startswith(victim + " ")), None)
                told_after = time.time() - began
            time.sleep(0.3)
        if kind == "full":
            disk.free()
        disk.thaw()
        ended = time.time()
        caught_up = self.caught_up(noun, victim)
        name = f"{noun} {who}: {'disk full' if kind == 'full' else 'disk hangs'}"
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
            self.expect(self.leader(noun) == leader, f"{name}: {leader} leads as before")
        if who == "leader" and (noun == "om" or kind == "hangs"):
            self.expect(handed is not None, f"{name}: {victim} handed leadership over")
        return ended

    def press(self):
        """Has SCM log something: a container is closed, and another made for what comes next."""
        found = self.apus("admin", "container", "list", "--json")
        if found.returncode == 0:
            rows = [row for row in json.loads(found.stdout) if row["state"].lower() == "open"]
            if rows:
                self.apus("admin", "container", "close", str(rows[0]["id"]))

    def caught_up(self, noun, victim):
        began = time.monotonic()
        while time.monotonic() < began + 30:
            rows = {row["id"]: row for row in self.roles(noun)}
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
        self.begin_load(int(len(faults) * (self.arguments.seconds + 10))
                        + (LONGEST_FILL // 2 if ("full", "om", "leader") in faults else 0))
        time.sleep(3)
        for fault in faults:
            self.fault(*fault)
            time.sleep(2)
        report = json.loads(self.load.communicate(timeout=900)[0])
        # Behind its rate it would go on for longer.
        self.names.kill()
        self.names.wait()
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
    disks, run = {}, None
    try:
        for noun in ["om", "scm"]:
            for number in range(MEMBERS):
                name = f"{noun}{number + 1}"
                disks[name] = Disk(pathlib.Path(cluster.dir, name))
        cluster.start()
        run = Run(cluster, disks, arguments)
        failed = run.run()
    finally:
        for disk in disks.values():
            disk.thaw()
        for process in [run and run.load, run and run.names]:
            if process and process.poll() is None:
                process.kill()
        if os.environ.get("APUS_TEST_KEEP"):
            shutil.copytree(pathlib.Path(cluster.dir, "log"), pathlib.Path(arguments.out, "disk-logs"),
                            dirs_exist_ok=True)
        cluster.destroy()
        for disk in disks.values():
            disk.unmount()
        shutil.rmtree(cluster.dir, ignore_errors=True)
    print("passed" if not failed else f"FAILED, seed {arguments.seed}")
    return 0 if not failed else 1


if __name__ == "__main__":
    enter()
    from rig import APUS, Cluster
    sys.exit(main())
