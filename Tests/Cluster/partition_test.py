"""Whether the cluster's answers are those of one copy while the links of its leaders are cut.

Eight hosts in network namespaces (hosts.py): OM and SCM on the first three, a datanode on each of the
others. Clients put, get and delete the same keys (`apus bench consistency`) on the fourth while the
host of the OM that leads loses its cable, or only what it sends, or only what it is sent, for some
seconds. Every history must be linearizable: a leader that is cut off serves no stale read and loses
nothing. The time without a successful write after each cut is measured and printed."""

import argparse
import contextlib
import json
import pathlib
import random
import subprocess
import sys
import time

import histories
import hosts
from rig import APUS, leader_among

MEMBERS = 3
DATANODES = 5
KINDS = ["no cable", "sends into the void", "hears nothing"]


class Cluster:
    """The roles on their hosts, each a process of the test."""

    def __init__(self, rig):
        self.rig, self.processes = rig, []
        self.cluster = {"id": "partition", "replication": "rs-3-2-1024k"}
        self.addresses = {
            role: [f"{role}{number}={rig[number].address}:{port}" for number in range(1, MEMBERS + 1)]
            for role, port in [("om", 9862), ("scm", 9863)]}

    def settings(self, name, group, own):
        """Writes the settings of a role and returns the file."""
        groups = {"cluster": self.cluster, "node": {"name": name},
                  "om": {"addresses": self.addresses["om"]},
                  "scm": {"addresses": self.addresses["scm"]}}
        groups.setdefault(group, {}).update(own)
        path = pathlib.Path(self.rig.dir, f"{name}.json")
        path.write_text(json.dumps(groups))
        return str(path)

    def run(self, host, *arguments, check=True, timeout=60):
        return hosts.run(*host.enter, APUS, *arguments, check=check, timeout=timeout)

    def begin(self, host, name, *arguments):
        log = open(self.rig.dir / f"{name}.log", "w")
        self.processes.append(subprocess.Popen(
            [*host.enter, APUS, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def start(self):
        for role, port in [("scm", 9863), ("om", 9862)]:
            for number in range(1, MEMBERS + 1):
                host, name = self.rig[number], f"{role}{number}"
                path = self.settings(name, role, {
                    "id": name, "host": host.address, "port": port,
                    "directory": str(self.rig.dir / name)})
                self.run(host, role, "--config", path, "--init")
                self.begin(host, name, role, "--config", path)
        for number in range(1, DATANODES + 1):
            host, name = self.rig[MEMBERS + number], f"dn{number}"
            folder = self.rig.dir / name
            path = self.settings(name, "datanode", {
                "host": host.address, "port": 9864, "directory": str(folder),
                "volumes": [str(folder / "volume1")]})
            self.begin(host, name, "datanode", "--config", path)
        self.client = self.settings("client", "om", {})
        end = time.monotonic() + 60
        while True:
            made = self.run(self.rig[4], "user", "create", "admin", "--admin", "--config",
                            self.client, check=False)
            if made.returncode == 0:
                break
            assert time.monotonic() < end, made.stderr
            time.sleep(0.2)
        while self.healthy() < DATANODES or self.run(
                self.rig[4], "admin", "status", "--config", self.client, check=False).returncode != 0:
            assert time.monotonic() < end, "the cluster does not become well"
            time.sleep(0.2)

    def healthy(self):
        found = self.run(self.rig[4], "admin", "datanode", "list", "--json", "--config", self.client,
                         check=False)
        rows = json.loads(found.stdout) if found.returncode == 0 else []
        return sum(row["state"].lower() == "healthy" for row in rows)

    def roles(self):
        """The OMs, as one hears of them that has its cable."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            found = self.run(self.rig[4], "admin", "om", "roles", "--json", "--config", self.client,
                             check=False, timeout=20)
            if found.returncode == 0:
                return json.loads(found.stdout)
        return []

    def leader(self, but=None):
        """The host of the OM that leads, other than that on `but`."""
        found = leader_among(self.roles, but and f"om{but.number}", seconds=60)
        assert found, "no OM leads" + (f" while {but.name} is cut off" if but else "")
        return self.rig[int(found[2:])]

    def stop(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


def cut(rig, host, kind):
    """Cuts the host off in one of the ways; returns what heals it."""
    others = [other for other in rig if other is not host]
    healing = contextlib.ExitStack()
    if kind == "no cable":
        host.cut()
        healing.callback(host.heal)
    for other in others:
        if kind == "sends into the void":
            host.cut_towards(other)
            healing.callback(host.heal_towards, other)
        elif kind == "hears nothing":
            other.cut_towards(host)
            healing.callback(other.heal_towards, host)
    return healing


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuts", type=int, default=4)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1 << 31))
    parser.add_argument("--out", default=".")
    arguments = parser.parse_args()
    hosts.enter()
    print(f"partitions: {MEMBERS} OMs, {MEMBERS} SCMs, {DATANODES} datanodes on as many hosts, "
          f"seed {arguments.seed}", flush=True)
    chance = random.Random(arguments.seed)
    cuts, load = [], None
    with hosts.Hosts(None, count=MEMBERS + DATANODES, disks=0) as rig:
        cluster = Cluster(rig)
        try:
            cluster.start()
            kinds = [KINDS[number % len(KINDS)] for number in range(arguments.cuts)]
            chance.shuffle(kinds)
            lengths = [chance.uniform(1.5, 5) for _ in kinds]
            load = histories.Load(
                [*rig[4].enter, APUS, "bench", "consistency", "--config", cluster.client, "--json",
                 "--seconds", "3600",
                 "--workers", str(arguments.workers), "--seed", str(arguments.seed),
                 "--out", arguments.out])
            time.sleep(2)
            for kind, length in zip(kinds, lengths):
                host = cluster.leader()
                assert load.runs, f"clients are not at work before: {kind}"
                cuts.append((kind, time.time()))
                with cut(rig, host, kind):
                    time.sleep(length)
                    # Else nothing was shown: those that are left must go on without it.
                    cluster.leader(but=host)
                time.sleep(4)
            assert load.runs, "clients were not at work to the end"
            load.stop()
            found = load.report(300)
        finally:
            if load:
                load.kill()
            cluster.stop()
    histories.tell(found, f"{len(cuts)} cuts")
    histories.tell_pauses(found, cuts)
    good = histories.are_linearizable(load, found, 1000)
    print("passed" if good else f"FAILED, seed {arguments.seed}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
