"""What is done to a cluster, and undone: one class a kind of fault.

A fault says whom it touches (`dn3`, `om`, `scm`, `s3g1`), so that never more is touched at a time
than the promise covers, and whether it takes bytes away: such a one waits until nothing is missing,
and counts until all of it is there again."""

import contextlib
import os
import subprocess
import time

import hosts
from disks import Throttle, kinds

MIB = 1 << 20
# What keys are coded with, rs-3-2-1024k: bytes of a cell, data indexes.
CELL, DATA = MIB, 3


class CannotBeHad(Exception):
    """This fault cannot be had now; says why."""


class Fault:
    """`weight`: how often it is chosen, beside others. `seconds`: how long it lasts, at least and at
    most."""

    kind = None
    weight = 1.0
    seconds = (2.0, 8.0)
    # Takes bytes away that have to be made anew.
    loses = False
    # Replicas of open containers among them: those are closed then.
    loses_open = True
    # Clients of the gateways that it touches lose their connections.
    troubles = False

    @property
    def troubled(self):
        """The gateways whose clients may see connections break and bodies end."""
        return self.touches if self.troubles else set()

    def __init__(self, rig, chance):
        self.rig, self.chance = rig, chance
        self.lasts = chance.uniform(*self.seconds)
        self.touches = set()
        self.detail = ""
        self.choose()

    @classmethod
    def cannot_be(cls, rig):
        """Why there is no such fault here; None if there is."""
        return None

    def choose(self):
        """Chooses whom it touches."""
        raise NotImplementedError

    def begin(self):
        raise NotImplementedError

    def end(self):
        raise NotImplementedError

    def is_over(self):
        """After `end`: whether it touches nobody any more. What `loses` also waits until nothing is
        missing."""
        return True

    # For those who choose

    def a_datanode(self):
        role = self.chance.choice(self.rig.cluster.of("datanode"))
        self.touches = {role.name}
        return role

    def a_member(self, kind=None):
        """A member of a group; the leader about half of the time."""
        kind = kind or self.chance.choice(["om", "scm"])
        self.touches = {kind}
        if self.chance.random() < 0.4:
            leader = self.rig.cluster.leader(kind, seconds=2)
            if leader:
                self.detail = "leads"
                return self.rig.cluster[leader]
        return self.chance.choice(self.rig.cluster.of(kind))

    def a_gateway(self):
        role = self.chance.choice(self.rig.cluster.of("s3gateway"))
        self.touches = {role.name}
        return role

    def heard_of(self, role):
        """Whether SCM hears of a datanode and of all its disks."""
        row = self.rig.node(role)
        return bool(row and row["state"] == "HEALTHY" and not row["failedVolumes"]
                    and row["silentMilliseconds"] < 3000)

    def __str__(self):
        return f"{self.kind} {' '.join(sorted(self.touches))}" + (
            f" ({self.detail})" if self.detail else "")


# Processes


class DatanodeKilled(Fault):
    kind, weight, seconds = "datanode killed", 3.0, (0.0, 6.0)

    def choose(self):
        self.role = self.a_datanode()

    def begin(self):
        self.role.kill()

    def end(self):
        self.role.start()

    def is_over(self):
        return self.heard_of(self.role)


class DatanodeDead(DatanodeKilled):
    """For longer than until what it has is rebuilt elsewhere."""

    kind, weight, seconds = "datanode dead for long", 0.7, (14.0, 25.0)


class DatanodeStopped(Fault):
    kind, weight, seconds = "datanode stopped", 2.0, (0.5, 12.0)

    def choose(self):
        self.role = self.a_datanode()

    def begin(self):
        self.role.pause()

    def end(self):
        self.role.go_on()

    def is_over(self):
        return self.heard_of(self.role)


class MemberKilled(Fault):
    kind, weight, seconds = "member killed", 2.0, (0.0, 6.0)
    def choose(self):
        self.role = self.a_member()
        self.detail = f"{self.role.name} {self.detail}".strip()

    def begin(self):
        self.role.kill()

    def end(self):
        self.role.start()

    def is_over(self):
        """It answers, and has what the leader has."""
        rows = self.rig.cluster.asked("admin", self.role.kind, "roles") or []
        lead = next((row for row in rows if row["role"] == "leader" and row["isReachable"]), None)
        own = next((row for row in rows if row["id"] == self.role.name and row["isReachable"]), None)
        return bool(lead and own and own["appliedIndex"] + 2000 >= lead["appliedIndex"])


class MemberStopped(MemberKilled):
    kind, weight, seconds = "member stopped", 2.0, (0.5, 9.0)

    def begin(self):
        self.role.pause()

    def end(self):
        self.role.go_on()


class GatewayKilled(Fault):
    kind, weight, seconds, troubles = "gateway killed", 0.7, (0.0, 4.0), True
    def choose(self):
        self.role = self.a_gateway()

    def begin(self):
        self.role.kill()

    def end(self):
        self.role.start()


class GatewayStopped(Fault):
    kind, weight, seconds, troubles = "gateway stopped", 0.7, (0.5, 8.0), True

    def choose(self):
        self.role = self.a_gateway()

    def begin(self):
        self.role.pause()

    def end(self):
        self.role.go_on()


# Disks of datanodes


class DiskFault(Fault):
    """Of one volume of a datanode, on a file system of its own."""

    @classmethod
    def cannot_be(cls, rig):
        return rig.without_disks

    def choose(self):
        self.role = self.a_datanode()
        self.volume = self.chance.choice(self.rig.cluster.volumes_of(self.role.name))
        self.detail = self.volume.name

    @property
    def disk(self):
        return self.rig.disks[self.volume]

    def is_over(self):
        return self.heard_of(self.role)


class DiskWiped(DiskFault):
    """A new disk in the place of one that has failed."""

    kind, weight, seconds, loses = "disk wiped", 1.5, (0.0, 5.0), True
    @classmethod
    def cannot_be(cls, rig):
        return None

    def begin(self):
        self.role.kill()

    def end(self):
        self.rig.replace(self.role, self.volume)
        self.role.start()


class TwoDisksWiped(DiskWiped):
    """As many as the promise covers, at once."""

    kind, weight = "two disks wiped", 0.7

    def choose(self):
        both = self.chance.sample(self.rig.cluster.of("datanode"), 2)
        self.roles = [(role, self.chance.choice(self.rig.cluster.volumes_of(role.name)))
                      for role in both]
        self.touches = {role.name for role in both}

    def begin(self):
        for role, _ in self.roles:
            role.kill()

    def end(self):
        for role, volume in self.roles:
            self.rig.replace(role, volume)
            role.start(wait=False)
        for role, _ in self.roles:
            role.wait_ready()

    def is_over(self):
        return all(self.heard_of(role) for role, _ in self.roles)


class DiskPowerCut(DiskFault):
    """What was not synced is lost; what was acknowledged is not."""

    kind, weight, seconds = "disk's power cut", 2.0, (0.0, 3.0)
    def begin(self):
        self.disk.shut_down()
        # Sometimes the process sees its disk fail first.
        time.sleep(self.chance.choice([0, 0, 0.5, 2]))
        self.role.kill()

    def end(self):
        self.rig.remount(self.volume)
        self.role.start()


class AllPowerCut(DiskFault):
    """The whole cluster loses its power: nothing that was acknowledged may be lost with it."""

    kind, weight, seconds = "everything's power cut", 0.4, (0.5, 2.0)
    def choose(self):
        cluster = self.rig.cluster
        self.roles = [role for role in cluster.roles_by_name.values() if role.kind != "s3gateway"]
        self.touches = {role.name for role in cluster.of("datanode")} | {"om", "scm"}
        self.detail = "all datanodes, OMs and SCMs"

    @property
    def troubled(self):
        """An object that is being sent has nowhere to go on from."""
        return {role.name for role in self.rig.cluster.of("s3gateway")}

    def begin(self):
        for disk in self.rig.disks.values():
            disk.shut_down()
        for role in self.roles:
            role.kill()

    def end(self):
        for path in self.rig.disks:
            self.rig.remount(path)
        for role in self.roles:
            role.start(wait=False)
        for role in self.roles:
            role.wait_ready()

    def is_over(self):
        return all(self.heard_of(role) for role in self.rig.cluster.of("datanode")) and bool(
            self.rig.cluster.leader("om", seconds=1))


class DiskCutShort(DiskFault):
    """The end of the device is gone: EIO for who reads there, and zeros once something was written."""

    kind, weight, seconds, loses = "disk with bad sectors", 0.8, (3.0, 10.0), True

    def begin(self):
        # What the kernel still has of the device would be served.
        subprocess.run(["sync", "--file-system", str(self.volume)], check=False, timeout=60)
        self.disk.cut_short(self.chance.uniform(0.02, 0.3))

    def end(self):
        self.role.kill()
        self.rig.replace(self.role, self.volume)
        self.role.start()


class DiskReadOnly(DiskFault):
    """As after an error of the file system's metadata: EROFS for who writes."""

    kind, weight, seconds = "disk read-only", 1.0, (2.0, 12.0)

    @classmethod
    def cannot_be(cls, rig):
        return rig.without_disks or (None if "ext4" in kinds() else "no ext4")

    def choose(self):
        super().choose()
        if self.disk.kind != "ext4":
            raise CannotBeHad("not with " + self.disk.kind)

    def begin(self):
        self.disk.refuse_writes()

    def end(self):
        self.role.kill()
        self.rig.remount(self.volume)
        self.role.start()


class DiskFull(DiskFault):
    kind, weight, seconds = "disk full", 1.5, (4.0, 15.0)

    def begin(self):
        self.disk.fill()

    def end(self):
        self.disk.free()

    def is_over(self):
        return True


class DiskHangs(DiskFault):
    """Every write waits in the kernel."""

    kind, weight, seconds = "disk hangs", 0.7, (1.0, 14.0)

    def begin(self):
        self.disk.freeze(self.lasts)

    def end(self):
        self.disk.thaw()


class DiskSlow(DiskFault):
    kind, weight, seconds = "disk slow", 1.0, (4.0, 15.0)

    @classmethod
    def cannot_be(cls, rig):
        return rig.without_disks or (None if Throttle.folder() else "no control group of disks")

    def begin(self):
        rate, operations = self.chance.choice([(256 << 10, 10), (1 * MIB, 50), (4 * MIB, 20)])
        self.detail = f"{self.volume.name}, {rate >> 10} KiB/s, {operations} operations/s"
        try:
            self.disk.slow_down(self.role.pid, rate, operations)
        except OSError as error:
            raise CannotBeHad(f"no throttle: {error}") from None

    def end(self):
        self.disk.unthrottle()


class ProcessInPulses(Fault):
    """A datanode that is stopped half of the time: slow in all it does."""

    kind, weight, seconds = "datanode in pulses", 0.7, (4.0, 12.0)

    def choose(self):
        self.role = self.a_datanode()
        self.pulses = None

    def begin(self):
        self.pulses = subprocess.Popen(
            ["sh", "-c", 'while kill -STOP "$0" 2>/dev/null; do sleep 0.3; kill -CONT "$0"; sleep 0.2;'
             ' done', str(self.role.pid)], stderr=subprocess.DEVNULL)

    def end(self):
        self.pulses.kill()
        self.pulses.wait()
        self.role.go_on()

    def is_over(self):
        return self.heard_of(self.role)


class MemberDiskFull(Fault):
    """Of an OM or SCM."""

    kind, weight, seconds = "member's disk full", 0.6, (4.0, 12.0)

    @classmethod
    def cannot_be(cls, rig):
        return rig.without_disks

    def choose(self):
        self.role = self.a_member()
        self.detail = f"{self.role.name} {self.detail}".strip()

    @property
    def disk(self):
        return self.rig.disks[self.rig.cluster.folder(self.role.name)]

    def begin(self):
        self.disk.fill()

    def end(self):
        self.disk.free()

    is_over = MemberKilled.is_over


class MemberDiskHangs(MemberDiskFull):
    kind, weight, seconds = "member's disk hangs", 0.6, (1.0, 8.0)

    def begin(self):
        self.disk.freeze(self.lasts)

    def end(self):
        self.disk.thaw()


class MemberPowerCut(MemberDiskFull):
    kind, weight, seconds = "member's power cut", 1.0, (0.0, 4.0)
    def begin(self):
        self.disk.shut_down()
        self.role.kill()

    def end(self):
        self.rig.remount(self.rig.cluster.folder(self.role.name))
        self.role.start()


# Bytes


class BytesFlipped(Fault):
    """Bytes of one replica of a closed container are not what was written."""

    kind, weight, seconds, loses = "bytes flipped", 2.0, (1.0, 5.0), True
    loses_open = False
    # One byte of the data; a byte in each of its blocks; the index and footer at its end; the
    # header; the journal; the journal gone.
    PLACES = ["byte", "blocks", "end", "header", "journal", "journal cut"]

    def choose(self):
        self.place = self.chance.choice(self.PLACES)
        self.key = self.chance.choice(self.rig.keeper.keys)
        found = self.rig.replica_of(self.key, self.chance)
        if not found:
            raise CannotBeHad(f"{self.key} has no bytes in a closed container")
        self.container, self.index, self.role, self.path = found
        self.found_whole = 0
        self.touches = {self.role.name}
        self.detail = f"{self.place}: {self.path.name}, index {self.index}, of {self.key}"

    def begin(self):
        if self.place == "byte":
            self._place_of_key()
        status = os.stat(self.path)
        self.mark = status.st_dev, status.st_ino
        journal = self.path.with_suffix(".journal")
        # Footer and journal are read when the store is opened.
        self.restarts = self.place in ("end", "header", "journal", "journal cut") \
            or self.chance.random() < 0.2
        if self.restarts:
            self.role.kill()
        if self.place == "journal cut":
            os.truncate(journal, self.chance.choice([0, 100, 4096]))
        elif self.place == "journal":
            self._flip(journal, [self.chance.randrange(os.stat(journal).st_size)])
        elif self.place == "header":
            self._flip(self.path, [self.chance.randrange(100)])
        elif self.place == "end":
            self._flip(self.path, [max(0, status.st_size - self.chance.randrange(1, 9000))])
        elif self.place == "byte":
            self._flip(self.path, [self._place_of_key() + self.chance.randrange(64)])
        else:
            blocks = self._written(status.st_size)
            self._flip(self.path, [at + self.chance.randrange(64) for at in blocks])
        if self.restarts:
            self.role.start()

    def _place_of_key(self):
        """Where the key's first bytes of this index lie; wherever the container has put them."""
        body = self.rig.kept_body(self.key)
        piece = body[(self.index - 1) * CELL:][:64]
        place = self.path.read_bytes().find(piece) if len(piece) == 64 and self.index <= DATA else -1
        if place < 0:
            raise CannotBeHad("the key has too little in this replica to be found there")
        return place

    def _written(self, size):
        """Where blocks of 4 KiB begin, behind the header and before holes, that hold anything."""
        found, at = [], 4096
        with open(self.path, "rb") as file, contextlib.suppress(OSError):
            while True:
                at = file.seek(at, os.SEEK_DATA)
                end = file.seek(at, os.SEEK_HOLE)
                found += range(at, min(end, size - 64), 4096)
                at = end
        return found

    def _flip(self, path, places):
        with open(path, "r+b") as file:
            for place in places:
                file.seek(place)
                byte = file.read(1)
                file.seek(place)
                file.write(bytes([byte[0] ^ (1 << self.chance.randrange(8))]))
            file.flush()
            os.fsync(file.fileno())

    def end(self):
        """What was damaged is not put right by whoever damaged it."""

    def is_over(self):
        """Another replica has taken its place. Whoever reads the key meets the damage."""
        if not self.heard_of(self.role):
            return False
        is_whole, _ = self.rig.verify(self.key)
        self.found_whole = self.found_whole + 1 if is_whole else 0
        if self.is_replaced() or self.met_nothing():
            # Next time another container has it.
            self.rig.write_kept(self.key)
            return True
        return False

    def met_nothing(self):
        """Whether what was flipped is no byte that anybody reads: headers, indexes and footers are
        padded to whole blocks."""
        return self.restarts and self.place in ("end", "header", "journal") \
            and self.found_whole >= 4

    def is_replaced(self):
        try:
            status = os.stat(self.path)
        except OSError:
            return True
        return self.mark != (status.st_dev, status.st_ino)


# Links


class LinkFault(Fault):
    @classmethod
    def cannot_be(cls, rig):
        return rig.without_hosts

    def begin(self):
        self.healing = hosts.cut(self.place.host, [other.host for other in self.others], self.way)

    def end(self):
        self.healing.close()


class DatanodeCutOff(LinkFault):
    kind, weight, seconds = "datanode cut off", 1.2, (1.0, 15.0)

    def choose(self):
        self.role = self.a_datanode()
        self.place = self.role.place
        self.others = [place for place in self.rig.places if place is not self.place]
        self.way = self.chance.choice(hosts.CUTS)
        self.detail = self.way

    def is_over(self):
        return self.heard_of(self.role)


class MemberCutOff(LinkFault):
    """The host of an OM and an SCM."""

    kind, weight, seconds = "members cut off", 1.2, (1.0, 8.0)

    def choose(self):
        self.role = self.a_member()
        self.place = self.role.place
        self.touches = {"om", "scm"}
        self.others = [place for place in self.rig.places if place is not self.place]
        self.way = self.chance.choice(hosts.CUTS)
        self.detail = f"the host of {self.role.name} {self.detail}: {self.way}".replace(" :", ":")

    is_over = MemberKilled.is_over


class GatewayCutOff(DatanodeCutOff):
    kind, weight, seconds, troubles = "gateway cut off", 0.5, (1.0, 6.0), True

    def choose(self):
        self.role = self.a_gateway()
        self.place = self.role.place
        self.others = [place for place in self.rig.places if place is not self.place]
        self.way = self.chance.choice(hosts.CUTS)
        self.detail = self.way

    def is_over(self):
        return True


class LinkBetweenTwo(LinkFault):
    """Only these two do not hear each other, or one does not hear the other."""

    kind, weight, seconds = "link between two", 1.2, (1.0, 12.0)

    def choose(self):
        one, other = self.chance.sample(self.rig.places, 2)
        self.place, self.others = one, [other]
        self.touches = self.rig.roles_at(one) | self.rig.roles_at(other)
        self.both = self.chance.random() < 0.5
        self.detail = f"{one.host.name} and {other.host.name}, " + (
            "both ways" if self.both else "one way")

    def begin(self):
        self.way = "sends into the void"
        super().begin()
        if self.both:
            self.healing.push(hosts.cut(self.others[0].host, [self.place.host], self.way))


ALL = [DatanodeKilled, DatanodeDead, DatanodeStopped, MemberKilled, MemberStopped, GatewayKilled,
       GatewayStopped, DiskWiped, TwoDisksWiped, DiskPowerCut, AllPowerCut, DiskCutShort,
       DiskReadOnly, DiskFull, DiskHangs, DiskSlow, ProcessInPulses, MemberDiskFull,
       MemberDiskHangs, MemberPowerCut, BytesFlipped, DatanodeCutOff, MemberCutOff, GatewayCutOff,
       LinkBetweenTwo]
