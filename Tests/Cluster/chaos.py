#!/usr/bin/env python3
"""Everything at once, by chance: a mixed S3 load, every answer of which is held against what was
acknowledged, while processes are killed and stopped, disks lost, full, slow and rotten, powers and
links cut; never more at a time than rs-3-2 and groups of three bear.

    make chaos ARGS="--minutes 10 --seed 7"
    python Tests/Cluster/chaos.py [--minutes 2] [--seed N] [--only WORD,…] [--without WORD,…]
                                  [--json FILE] [--out FOLDER] [--list]

3 OMs, 3 SCMs, 7 datanodes with 9 volumes and 2 gateways, each process on a host of its own (network
namespaces; OM and SCM share one) and each volume on a loop device, where root and those are there.
What cannot be had is named, and the rest is done.

In the end all is healed: the cluster must be at full redundancy within a bounded time, every key is
read and compared, replicas are verified, deletions have reached the last replica. Exit code 1 for
anything lost, wrong, partial, stale or resurrected, an error of a kind that clients need not bear,
a process that ended by itself, or a cluster that is not whole in the end; the logs are kept then."""

import argparse
import collections
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
import threading
import time
import traceback

import disks
import expected
import faults
import hosts
import mixed_load
from rig import APUS
from role_cluster import Place, RoleCluster

MEMBERS, DATANODES, GATEWAYS, WORKERS = 3, 7, 2, 6
# rs-3-2-1024k: so many datanodes may be touched at a time.
PARITY = 2
KEPT = 24
VOLUMES = {"dn1": 2, "dn2": 2}
MIB = 1 << 20
# 256 MiB of it are always left free; sparse.
VOLUME_BYTES = 1280 * MIB
MEMBER_BYTES = 768 * MIB

# Short, so that things happen; not so short that a busy machine takes the living for dead all the
# time.
SETTINGS = {
    "cluster": {"id": "chaos", "replication": "rs-3-2-1024k"},
    "om": {"deletion-delay-ms": 10_000},
    "scm": {"stale-after-ms": 3000, "dead-after-ms": 8000, "repair-after-ms": 3000,
            "container-bytes": 16 * MIB, "close-delay-ms": 2000},
    "datanode": {"reclaim-delay-ms": 2000},
}

# Bounds, in seconds; named in what fails. The machine may be busy with other tests.
LONGEST_RECOVERY = 180
LONGEST_HEALING = 300
LONGEST_DELETION = 120
# Requests of a gateway that was stopped or cut off are answered so much later.
AFTER_TROUBLE = 8
# Keys whose replicas are verified in the end.
VERIFIED = 40
# Faults that are chosen until one may begin now.
CHOICES = 4


class Rig:
    """The cluster, what it stands on, and what is asked of it."""

    def __init__(self, seed, inside, without_hosts):
        self.seed = seed
        self.without_hosts, self.without_disks = without_hosts, without_hosts
        self.cleaning = contextlib.ExitStack()
        self.disks = {}
        self.troubles = []
        if inside:
            rig = self.cleaning.enter_context(
                hosts.Hosts(None, count=MEMBERS + DATANODES + GATEWAYS, disks=0))
            self.dir = rig.dir
            self.places = [Place(host) for host in rig]
        else:
            self.dir = pathlib.Path(tempfile.mkdtemp(
                prefix="apus-chaos-", dir=os.environ.get("APUS_TEST_TMP")))
            self.cleaning.callback(shutil.rmtree, self.dir, ignore_errors=True)
            self.places = [Place()] * (MEMBERS + DATANODES + GATEWAYS)
        try:
            self._make_cluster(inside)
        except BaseException:
            self.cleaning.close()
            raise

    def _make_cluster(self, inside):
        names = {}
        for number in range(MEMBERS):
            names[f"om{number + 1}"] = names[f"scm{number + 1}"] = self.places[number]
        for number in range(DATANODES):
            names[f"dn{number + 1}"] = self.places[MEMBERS + number]
        for number in range(GATEWAYS):
            names[f"s3g{number + 1}"] = self.places[MEMBERS + DATANODES + number]
        self.cluster = RoleCluster(self.dir, MEMBERS, DATANODES, names, GATEWAYS, SETTINGS, VOLUMES)
        if inside:
            self._make_disks()
        self.cleaning.callback(self.cluster.stop)

    def _make_disks(self):
        disks.Throttle.remove_lost()
        found = disks.kinds()
        if not found:
            self.without_disks = "no ext4 and no xfs"
            return
        wanted = [(path, VOLUME_BYTES, found[number % len(found)])
                  for number, name in enumerate(role.name for role in self.cluster.of("datanode"))
                  for path in self.cluster.volumes_of(name)]
        wanted += [(self.cluster.folder(role.name), MEMBER_BYTES, found[0])
                   for role in self.cluster.of("om") + self.cluster.of("scm")]
        for path, size, kind in wanted:
            try:
                disk = disks.Disk(path, size, kind)
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                self.without_disks = f"no file systems on loop devices: {error}"
                for disk in self.disks.values():
                    disk.unmount()
                self.disks = {}
                return
            self.disks[path] = disk
            self.cleaning.callback(disk.unmount)

    # What is known

    def node(self, role):
        return next((row for row in self.cluster.nodes() if row["address"] == role.address), None)

    def safety(self):
        """None if SCM does not say."""
        return self.cluster.asked("admin", "safety", timeout=8)

    def why_not_whole(self):
        """What is below full redundancy, or not known to be at it; None if nothing is."""
        nodes, count = self.cluster.nodes(), len(self.cluster.of("datanode"))
        well = [row for row in nodes if row["state"] == "HEALTHY" and not row["failedVolumes"]
                and row["silentMilliseconds"] < 3000]
        if len(well) < count:
            return f"{len(well)} of {count} datanodes are well"
        return self.why_degraded()

    def why_degraded(self):
        """As `why_not_whole`, whatever is with datanodes and disks."""
        found = self.safety()
        if found is None or not found["isKnown"]:
            return "SCM does not know"
        if found["degradedBlocks"] or any(
                row["missingReplicas"] or row["repairs"] for row in found["replications"]):
            return f"{found['degradedBlocks']} block groups are degraded: {found['replications']}"
        rows = self.cluster.containers()
        if rows is None:
            return "SCM does not list containers"
        bad = [row for row in rows if row["state"] != "DELETED"
               and (row["missingIndexes"] or row["corruptIndexes"])]
        return f"containers lack replicas: {bad[:3]}" if bad else None

    def open_containers_of(self, names):
        """Those that take blocks and have a replica on one of the datanodes."""
        addresses = {self.cluster[name].address for name in names if name.startswith("dn")}
        return {row["id"] for row in self.cluster.containers() or []
                if row["state"] in ("OPEN", "CLOSING") and addresses & set(row["replicas"])}

    def still_open(self, ids):
        rows = self.cluster.containers()
        return ids if rows is None else {
            row["id"] for row in rows if row["id"] in ids and row["state"] in ("OPEN", "CLOSING")}

    def verify(self, key):
        """(whether all replicas are whole, what was found of each block group)."""
        found = self.cluster.apus("admin", "replicas", "verify", f"/s3v/{mixed_load.BUCKET}/{key}",
                                  "--json")
        try:
            return found.returncode == 0, json.loads(found.stdout)
        except json.JSONDecodeError:
            return False, [{"error": found.stderr.strip()}]

    def replica_of(self, key, chance):
        """(container, index, role, data file) of a replica of a key in a closed container."""
        groups = [group for group in self.verify(key)[1] if "block" in group]
        closed = {row["id"] for row in self.cluster.containers() or [] if row["state"] == "CLOSED"}
        found = []
        for group in groups:
            container = int(group["block"].lstrip("#").split("/")[0])
            found += [(container, replica) for replica in group["replicas"]
                      if container in closed and replica["bytes"] > 0]
        if not found:
            return None
        container, replica = chance.choice(found)
        role = next(role for role in self.cluster.of("datanode")
                    if role.address == replica["node"])
        for volume in self.cluster.volumes_of(role.name):
            path = volume / "containers" / f"container-{container}.data"
            if path.exists():
                return container, replica["index"], role, path
        return None

    def roles_at(self, place):
        """Whom it touches when a place is."""
        return {role.kind if role.kind in ("om", "scm") else role.name
                for role in self.cluster.roles_by_name.values() if role.place is place}

    # What is done

    def remount(self, path):
        """Mounts the file system of a killed role anew."""
        disk = self.disks[path]
        assert disk.unmount(20), f"{path} is still in use by a process that was killed"
        try:
            disk.mount()
        except AssertionError:
            subprocess.run(["fsck", "-f", "-y", "-t", disk.kind, str(disk.image)], check=False,
                           capture_output=True, timeout=60)
            disk.mount()

    def replace(self, role, volume):
        """A new disk for a killed datanode."""
        disk = self.disks.get(volume)
        if disk:
            assert disk.unmount(20), f"{volume} is still in use by a process that was killed"
            disk.make()
            disk.mount()
        else:
            for entry in volume.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        said = subprocess.run(
            [*role.place.enter, APUS, "disk", "replaced", "--config",
             str(self.cluster.config(role.name)), str(volume)],
            capture_output=True, text=True, timeout=60, check=False)
        assert said.returncode == 0, f"disk replaced: {said.stderr}"

    # Load

    def begin(self):
        """Starts the cluster, and makes a load whose kept keys are there, most in closed
        containers."""
        self.cluster.start(120)
        self.make_load()
        for key in self.keeper.keys:
            self.write_kept(key)
        for row in self.cluster.containers() or []:
            if row["state"] == "OPEN":
                self.cluster.apus("admin", "container", "close", str(row["id"]))

    def make_load(self):
        def gateways():
            return mixed_load.Gateways(
                {role.name: f"http://{role.address}" for role in self.cluster.of("s3gateway")},
                self.cluster.credentials, self.is_troubled)
        self.load = mixed_load.Load(self.seed, WORKERS, gateways)
        kept = [f"kept/k{number:03d}" for number in range(KEPT)]
        self.load.registers.update({key: expected.Register(key) for key in kept})
        self.keeper = mixed_load.Worker(self.load, WORKERS)
        self.keeper.keys = kept
        self.keeper.answered("make the bucket", lambda client: client.create_bucket(
            Bucket=mixed_load.BUCKET))

    def write_kept(self, key):
        """Keys that the load reads and nobody overwrites meanwhile."""
        size = self.keeper.chance.choice([3000, 100_000, 1_500_000, 4 * MIB])
        self.keeper.write(key, size, "put", lambda client, body, metadata: client.put_object(
            Bucket=mixed_load.BUCKET, Key=key, Body=body, Metadata=metadata))

    def kept_body(self, key):
        register = self.load.registers[key]
        return expected.content(key, register.generation, register.size)

    def is_troubled(self, name, since):
        now = time.monotonic()
        return any(gateway == name and since < ended + AFTER_TROUBLE and began <= now
                   for gateway, began, ended in list(self.troubles))

    def close(self):
        self.cleaning.close()


class Watch:
    """Asks all the time how safe it is."""

    STATES = ["whole", "degraded", "no spare", "unreadable", "not known", "no answer"]

    def __init__(self, rig):
        self.rig = rig
        self.seconds = collections.Counter()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.state = "not known"

    def start(self):
        self.thread.start()

    def _run(self):
        before = time.monotonic()
        while not self.ended.wait(1):
            try:
                self.state = self._state(self.rig.safety())
            except Exception as error:  # an answer of another form is none
                self.state = "no answer"
                self.rig.load.tally.violation("rig", f"safety: {type(error).__name__}: {error}")
            now = time.monotonic()
            self.seconds[self.state] += now - before
            before = now

    @staticmethod
    def _state(found):
        if found is None:
            return "no answer"
        if not found["isKnown"]:
            return "not known"
        rows = found["replications"]
        if any(row["unreadableContainers"] for row in rows):
            return "unreadable"
        if not found["degradedBlocks"]:
            return "whole"
        return "no spare" if any(row["spareNow"] <= 0 for row in rows) else "degraded"

    def stop(self):
        self.ended.set()
        self.thread.join(60)


class Trial:
    """One fault from its beginning until it touches nobody any more, in a thread of its own: it ends
    in time, whoever waits for whom."""

    def __init__(self, rig, fault, over):
        """`over(trial)` is called when it touches nobody any more."""
        self.rig, self.fault, self.over = rig, fault, over
        self.began = time.monotonic()
        self.at = time.strftime("%H:%M:%S")
        self.ended = self.whole_since = None
        self.recovery = None
        # Its end is due.
        self.is_due = threading.Event()
        self.open_then = rig.open_containers_of(fault.touches) \
            if fault.loses and fault.loses_open else set()
        self.trouble = [[name, self.began, float("inf")] for name in fault.troubled]
        rig.troubles += self.trouble
        self.thread = threading.Thread(target=self._run, daemon=True)

    def begin(self):
        """What cannot be had is not begun."""
        try:
            self.fault.begin()
        except BaseException:
            self._end_trouble()
            raise
        self.thread.start()

    def _run(self):
        try:
            self.is_due.wait(self.fault.lasts)
            try:
                self.fault.end()
            finally:
                self.ended = time.monotonic()
                self._end_trouble()
            self._wait_until_over()
        except Exception as error:
            traceback.print_exc()
            self.rig.load.tally.violation(
                "rig", f"{self.fault}, begun {self.at}: {type(error).__name__}: {error}")
            self.over(self)

    def _end_trouble(self):
        for trouble in self.trouble:
            trouble[2] = time.monotonic()

    def _wait_until_over(self):
        is_late = False
        while not (self.fault.is_over() and (not self.fault.loses or self.is_made_anew())):
            if time.monotonic() > self.ended + LONGEST_RECOVERY and not is_late:
                is_late = True
                self.rig.load.tally.violation(
                    "not recovered", f"{self.fault}, begun {self.at}: not {LONGEST_RECOVERY} s after "
                    f"its end: {self.rig.why_not_whole()}")
            time.sleep(1)
        self.recovery = time.monotonic() - self.ended
        self.over(self)

    def is_made_anew(self):
        """Whether what it took is there again: all has been whole for some seconds, after SCM could
        have heard of the loss, and what was open then is closed."""
        now = time.monotonic()
        if self.rig.why_not_whole() or self.rig.still_open(self.open_then):
            self.whole_since = None
            return False
        self.whole_since = self.whole_since or now
        return now > self.ended + 6 and now > self.whole_since + 2


class Schedule:
    """Begins faults by chance and ends them, in one thread."""

    def __init__(self, rig, arguments):
        self.rig = rig
        self.chance = random.Random(f"{arguments.seed} faults")
        self.mean = arguments.every
        self.trials, self.history = [], []
        self.cannot = {}
        self.next_at = 0.0
        self.kinds = self._kinds(arguments)

    def _kinds(self, arguments):
        only = [word for word in (arguments.only or "").split(",") if word]
        without = [word for word in (arguments.without or "").split(",") if word]
        found = []
        for kind in faults.ALL:
            if only and not any(word in kind.kind for word in only) \
                    or any(word in kind.kind for word in without):
                continue
            reason = kind.cannot_be(self.rig)
            if reason:
                self.cannot[kind.kind] = reason
            else:
                found.append(kind)
        return found

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look_at_roles()
            if time.monotonic() >= self.next_at:
                self.begin_one()
                self.next_at = time.monotonic() + self.chance.expovariate(1 / self.mean)
            time.sleep(0.2)

    def heal(self):
        """Ends what is under way and waits until nobody is touched."""
        for trial in list(self.trials):
            trial.is_due.set()
        end = time.monotonic() + LONGEST_HEALING
        while self.trials and time.monotonic() < end:
            self.look_at_roles()
            time.sleep(0.3)
        for trial in list(self.trials):
            self.violation("not healed", f"{trial.fault}, begun {trial.at}")
        for role in self.rig.cluster.roles_by_name.values():
            if role.is_stopped:
                role.go_on()
            if not role.runs:
                role.start()

    def violation(self, kind, detail):
        self.rig.load.tally.violation(kind, detail)

    # Choosing

    def touched(self):
        found = set()
        for trial in list(self.trials):
            found |= trial.fault.touches
        return found

    def why_not(self, fault):
        """Why a fault must not begin now; None if it may."""
        touched = self.touched()
        if fault.touches & touched:
            return "it is touched already"
        gateways = {role.name for role in self.rig.cluster.of("s3gateway")}
        if gateways <= touched | fault.touches:
            return "no gateway would be left"
        nodes = [name for name in touched if name.startswith("dn")]
        new = [name for name in fault.touches if name.startswith("dn")]
        if isinstance(fault, faults.AllPowerCut):
            return "somebody is touched" if touched else None
        if len(nodes) + len(new) > PARITY:
            return "too many datanodes would be touched"
        if fault.loses:
            if any(trial.fault.loses for trial in list(self.trials)):
                return "bytes are being made anew"
            return self.rig.why_not_whole()
        return None

    def begin_one(self):
        """Begins a fault that may be now, if one of a few that are chosen may."""
        for _ in range(CHOICES):
            kind = self.chance.choices(self.kinds, [kind.weight for kind in self.kinds])[0]
            try:
                fault = kind(self.rig, self.chance)
                if self.why_not(fault):
                    continue
                trial = Trial(self.rig, fault, self.over)
                self.tell(f"begins {fault}, for {fault.lasts:.1f} s")
                trial.begin()
            except faults.CannotBeHad as error:
                self.cannot[f"{kind.kind}: {error}"] = "now and then"
                continue
            self.trials.append(trial)
            return

    def over(self, trial):
        """Of the trial's thread."""
        if trial.recovery is not None:
            self.tell(f"is over {trial.fault}, {trial.recovery:.1f} s after it ended")
            self.history.append({
                "kind": trial.fault.kind, "what": str(trial.fault), "at": trial.at,
                "seconds": round(trial.ended - trial.began, 1),
                "recovery": round(trial.recovery, 1)})
        # It may be over before it has been noted.
        while trial not in self.trials:
            time.sleep(0.05)
        self.trials.remove(trial)

    def look_at_roles(self):
        for role in self.rig.cluster.roles_by_name.values():
            mine = role.kind if role.kind in ("om", "scm") else role.name
            if role.is_killed or role.runs:
                continue
            touching = [trial.fault for trial in list(self.trials)
                        if mine in trial.fault.touches]
            self.violation("ended by itself", f"{role.name}, code {role.process.returncode}, "
                           f"beside {[str(fault) for fault in touching]}: {role.tail(600)}")
            role.start(wait=False)

    def tell(self, text):
        print(f"  {time.strftime('%H:%M:%S')} {text}", flush=True)


class Final:
    """What must hold when all is healed and the load has ended."""

    def __init__(self, rig, chance):
        self.rig, self.chance, self.found = rig, chance, {}

    def until(self, what, why_not, seconds):
        """Waits until `why_not()` says nothing; how long that took, None if it did not come."""
        began = time.monotonic()
        reason = why_not()
        while reason:
            if time.monotonic() > began + seconds:
                self.rig.load.tally.violation(
                    "not whole", f"{what}: not within {seconds} s: {reason}")
                return None
            time.sleep(0.5)
            reason = why_not()
        return round(time.monotonic() - began, 1)

    def run(self):
        rig, cluster = self.rig, self.rig.cluster
        self.found["secondsToFullRedundancy"] = self.until(
            "all is at full redundancy", rig.why_not_whole, LONGEST_HEALING)
        for row in cluster.containers() or []:
            if row["state"] == "OPEN":
                cluster.apus("admin", "container", "close", str(row["id"]))

        def open_with_bytes():
            rows = cluster.containers()
            left = [row for row in rows or [] if row["usedBytes"] > 0
                    and row["state"] in ("OPEN", "CLOSING")]
            return "SCM does not answer" if rows is None else f"{left[:2]}" if left else None
        self.until("what was written is in closed containers", open_with_bytes, 60)
        self.until("all closed containers are at full redundancy", rig.why_not_whole, 120)
        self.read_all()
        self.rig.load.tally.stop_waiting()
        self.verify_some()
        self.found["secondsToLastDeletion"] = self.until(
            "deletions have reached the last replica", self.pending, LONGEST_DELETION)
        self.found["strayReplicas"] = self.strays()
        self.found["containers"] = dict(collections.Counter(
            row["state"] for row in cluster.containers() or []))
        return self.found

    def read_all(self):
        load = self.rig.load
        keys, lock = iter(list(load.registers)), threading.Lock()

        def work(reader):
            while True:
                with lock:
                    key = next(keys, None)
                if key is None:
                    return
                try:
                    reader.read(key, "get")
                except Exception as error:
                    load.tally.violation("final read", f"{key}: {type(error).__name__}: {error}")
        threads = [threading.Thread(target=work, args=(load.reader(),), daemon=True)
                   for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        prefixes = sorted({key.split("/")[0] + "/" for key in load.registers})
        for prefix in prefixes:
            self.rig.keeper.list(prefix, 1000)
        self.found["keysRead"] = len(load.registers)
        self.found["bytesStored"] = load.stored

    def verify_some(self):
        load = self.rig.load
        keys = [key for key, register in load.registers.items() if register.size]
        keys = self.chance.sample(keys, min(VERIFIED, len(keys)))
        for key in keys:
            is_whole, groups = self.rig.verify(key)
            if not is_whole:
                # Damage that nobody had read yet is met now, and has to be healed.
                self.until(f"every replica of {key} is whole",
                           lambda key=key: None if self.rig.verify(key)[0]
                           else json.dumps(self.rig.verify(key)[1])[:600], 90)
                load.tally.error("damage met by the last verification", f"{key}: {groups}")
        self.found["keysVerified"] = len(keys)

    def pending(self):
        rows = self.rig.cluster.nodes()
        left = {row["address"]: (row["pendingDeletions"], row["unreclaimedBlocks"])
                for row in rows if row["pendingDeletions"] + row["unreclaimedBlocks"]}
        return "no datanodes are told of" if not rows else left or None

    def strays(self):
        """Replicas on disks that SCM has no place for."""
        rows = {row["id"]: row for row in self.rig.cluster.containers() or []}
        found = []
        for role in self.rig.cluster.of("datanode"):
            for volume in self.rig.cluster.volumes_of(role.name):
                for path in volume.glob("containers/container-*.data"):
                    row = rows.get(int(path.stem.split("-")[1]))
                    if row is None or row["state"] == "DELETED" \
                            or role.address not in row["replicas"]:
                        found.append(f"{role.name}/{volume.name}/{path.name}: "
                                     + ("unknown" if row is None else row["state"]))
        return found


class Report:
    """What came of a run, for people and for programs."""

    def __init__(self, arguments, rig, schedule, watch, final, seconds):
        tally = rig.load.tally
        tally.is_closed = True
        faults_by_kind = collections.Counter(row["kind"] for row in schedule.history)
        self.page = {
            "seed": arguments.seed, "minutes": arguments.minutes, "seconds": round(seconds),
            "repeat": f'make chaos ARGS="{self.words(arguments)}"',
            "operations": dict(tally.operations), "bytes": dict(tally.bytes),
            "faults": {kind: {
                "count": count,
                "longestRecovery": max(row["recovery"] for row in schedule.history
                                       if row["kind"] == kind)}
                for kind, count in sorted(faults_by_kind.items())},
            "history": schedule.history, "notHad": schedule.cannot,
            "without": {"hosts": rig.without_hosts, "disks": rig.without_disks},
            "errors": {kind: {"count": count, "examples": tally.examples[kind]}
                       for kind, count in tally.errors.most_common()},
            "longestUnavailability": {way: {"seconds": round(gap, 1), "until": until}
                                      for way, (gap, until) in sorted(tally.gaps.items())},
            "slowest": {kind: {"seconds": round(took, 1), "ended": ended, "key": key}
                        for kind, (took, ended, key) in sorted(tally.slowest.items())},
            "states": {state: round(watch.seconds[state], 1) for state in Watch.STATES
                       if watch.seconds[state]},
            "bytesLost": tally.lost_bytes, "violations": tally.violations, "final": final,
        }

    @staticmethod
    def words(arguments):
        return f"--minutes {arguments.minutes:g} --seed {arguments.seed}" + "".join(
            f" --{name} '{value}'" for name, value in [
                ("only", arguments.only), ("without", arguments.without)] if value)

    def tell(self):
        page = self.page
        count = sum(page["operations"].values())
        print(f"{count} operations in {page['seconds']} s: " + ", ".join(
            f"{count} {kind}" for kind, count in sorted(page["operations"].items())))
        print("  " + ", ".join(f"{count >> 20} MiB {way}" for way, count in page["bytes"].items()))
        print(f"{len(page['history'])} faults:")
        for kind, row in page["faults"].items():
            print(f"  {row['count']:4d} {kind}, over at most {row['longestRecovery']} s after the end")
        for kind, reason in page["notHad"].items():
            print(f"  SKIPPED {kind}: {reason}")
        print("errors that clients saw:" + ("" if page["errors"] else " none"))
        for kind, row in page["errors"].items():
            print(f"  {row['count']:5d} {kind}, as {row['examples'][0][:300]}")
        print("longest time without success: " + ", ".join(
            f"{way} {row['seconds']} s until {row['until']}"
            for way, row in page["longestUnavailability"].items()))
        print("slowest: " + ", ".join(
            f"{kind} {row['seconds']} s" for kind, row in page["slowest"].items()))
        print("time in each state: " + ", ".join(
            f"{state} {seconds:.0f} s" for state, seconds in page["states"].items()))
        print(f"in the end: {json.dumps(page['final'])}")
        print(f"bytes lost: {page['bytesLost']}")
        for row in page["violations"][:50]:
            print(f"  VIOLATION {row['at']} {row['kind']}: {row['detail'][:600]}")


def arguments_of():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2, help="how long faults are begun")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1 << 31))
    parser.add_argument("--every", type=float, default=3,
                        help="seconds from one fault to the next, in the mean")
    parser.add_argument("--only", help="words in the kinds of faults that are to be, with commas")
    parser.add_argument("--without", help="words in the kinds that are not to be")
    parser.add_argument("--json", metavar="FILE", help="the report for programs")
    parser.add_argument("--out", default=".", help="where logs go when something failed")
    parser.add_argument("--plain", action="store_true",
                        help="no hosts and no disks of their own: as where they cannot be had")
    parser.add_argument("--list", action="store_true", help="names the kinds of faults")
    return parser.parse_args()


def run(arguments, rig):
    """Returns the report; whatever fails is a violation in it."""
    rig.begin()
    schedule, watch = Schedule(rig, arguments), Watch(rig)
    final = {}
    began = time.monotonic()
    rig.load.start()
    watch.start()
    try:
        schedule.run(arguments.minutes * 60)
        schedule.heal()
        rig.load.stop()
        final = Final(rig, schedule.chance).run()
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        traceback.print_exc()
        rig.load.ended.set()
        rig.load.tally.violation("rig", f"{type(error).__name__}: {error}")
    watch.stop()
    return Report(arguments, rig, schedule, watch, final, time.monotonic() - began)


def keep_logs(rig, arguments, report):
    folder = pathlib.Path(arguments.out, f"chaos-{arguments.seed}").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ["log", "etc"]:
        shutil.copytree(rig.dir / name, folder / name)
    if report:
        (folder / "report.json").write_text(json.dumps(report.page, indent=1))
    print(f"the logs of all roles are in {folder}")


def end_once(number, _):
    """What is under way ends with a report; told twice, it is not disturbed in that."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit("ended by a signal")


def main():
    arguments = arguments_of()
    if arguments.list:
        for kind in faults.ALL:
            print(f"{kind.kind:28s} weight {kind.weight}, {kind.seconds[0]:g} to "
                  f"{kind.seconds[1]:g} s{', loses bytes' if kind.loses else ''}")
        return 0
    without = "--plain was given" if arguments.plain else hosts.enter_if_possible()
    # Ends in order: whatever was made is taken away.
    signal.signal(signal.SIGTERM, end_once)
    print(f"chaos: {MEMBERS} OMs, {MEMBERS} SCMs, {DATANODES} datanodes, {GATEWAYS} gateways, "
          f"{arguments.minutes:g} minutes, seed {arguments.seed}", flush=True)
    if without:
        print(f"SKIPPED links between hosts, disks of their own: {without}", flush=True)
    rig = Rig(arguments.seed, not without, without)
    report = None
    try:
        report = run(arguments, rig)
        report.tell()
    finally:
        failed = report is None or report.page["violations"]
        if failed or os.environ.get("APUS_TEST_KEEP"):
            keep_logs(rig, arguments, report)
        rig.close()
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(report.page, indent=1))
    print(f"FAILED, seed {arguments.seed}: {report.page['repeat']}" if failed else "passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
