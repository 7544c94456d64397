"""Whether the cluster's answers are those of one copy while the links of its leaders are cut.

Eight hosts in network namespaces (hosts.py): OM and SCM on the first three, a datanode on each of the
others. Clients put, get and delete the same keys (`apus bench consistency`) on the fourth while the
host of the OM that leads loses its cable, or only what it sends, or only what it is sent, for some
seconds. Every history must be linearizable: a leader that is cut off serves no stale read and loses
nothing. The time without a successful write after each cut is measured and printed."""

import argparse
import random
import sys
import time

import histories
import hosts
from rig import APUS
from role_cluster import Place, RoleCluster

MEMBERS = 3
DATANODES = 5


def places(rig):
    """OM and SCM on the first hosts, a datanode on each of the others."""
    found = {f"dn{number}": Place(rig[MEMBERS + number]) for number in range(1, DATANODES + 1)}
    for number in range(1, MEMBERS + 1):
        found[f"om{number}"] = found[f"scm{number}"] = Place(rig[number])
    return found


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
        cluster = RoleCluster(
            rig.dir, MEMBERS, DATANODES, places(rig),
            common={"cluster": {"id": "partition", "replication": "rs-3-2-1024k"}})

        def leader(but=None):
            """The host of the OM that leads, other than that on `but`."""
            found = cluster.leader("om", but and f"om{but.number}")
            assert found, "no OM leads" + (f" while {but.name} is cut off" if but else "")
            return cluster[found].place.host

        try:
            cluster.start()
            kinds = [hosts.CUTS[number % len(hosts.CUTS)] for number in range(arguments.cuts)]
            chance.shuffle(kinds)
            lengths = [chance.uniform(1.5, 5) for _ in kinds]
            load = histories.Load(
                [*rig[4].enter, APUS, "bench", "consistency", "--config", cluster.client, "--json",
                 "--seconds", "3600",
                 "--workers", str(arguments.workers), "--seed", str(arguments.seed),
                 "--out", arguments.out])
            time.sleep(2)
            for kind, length in zip(kinds, lengths):
                host = leader()
                assert load.runs, f"clients are not at work before: {kind}"
                cuts.append((kind, time.time()))
                with hosts.cut(host, [other for other in rig if other is not host], kind):
                    time.sleep(length)
                    # Else nothing was shown: those that are left must go on without it.
                    leader(but=host)
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
