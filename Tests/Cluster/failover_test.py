"""Whether the cluster's answers are those of one copy while its leaders die.

Clients put, get and delete the same keys (`apus bench consistency`) while the OM that leads is
killed or stopped, and an SCM with it, every few seconds. Every history must be linearizable. The
time without a successful write after each fault is measured and printed.
"""

import argparse
import os
import random
import signal
import sys
import time

import histories
from rig import APUS, Cluster


class Faults:
    """Does something to the leader every few seconds, and notes when."""

    def __init__(self, cluster, oms, scms, seed):
        self.cluster = cluster
        self.oms = [f"om{number + 1}" for number in range(oms)]
        self.scms = [f"scm{number + 1}" for number in range(scms)]
        self.random = random.Random(seed)
        # (kind, when, seconds since 1970)
        self.done = []

    def leader(self, noun, members):
        """Who leads, as far as anybody can tell; else any member."""
        if len(members) == 1:
            return members[0]
        return self.cluster.leader(noun) or self.random.choice(members)

    def kill(self, role):
        self.cluster.kill(role)

    def restart(self, role):
        self.cluster.restart(role, role.rstrip("0123456789"))

    def round(self):
        kind = self.random.choice(["kill om", "kill om", "stop om", "kill om and scm"])
        role = self.leader("om", self.oms)
        others = [self.random.choice(self.scms)] if kind == "kill om and scm" else []
        self.done.append((kind, time.time()))
        if kind == "stop om":
            pid = self.cluster.pid(role)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self.random.uniform(0.5, 3))
            os.kill(pid, signal.SIGCONT)
        else:
            for victim in [role, *others]:
                self.kill(victim)
            time.sleep(self.random.uniform(0.1, 1.5))
            for victim in [*others, role]:
                self.restart(victim)
        time.sleep(self.random.uniform(2, 4))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--operations", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--keys", type=int, default=6)
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1 << 31))
    parser.add_argument("--oms", type=int, default=3)
    parser.add_argument("--scms", type=int, default=3)
    parser.add_argument("--out", default=".")
    arguments = parser.parse_args()
    print(f"failover: {arguments.oms} OMs, {arguments.scms} SCMs, seed {arguments.seed}",
          flush=True)
    cluster = Cluster(
        options=["--oms", str(arguments.oms), "--scms", str(arguments.scms)])
    load = None
    try:
        cluster.start()
        load = histories.Load(
            [APUS, "bench", "consistency", "--dir", cluster.dir, "--json",
             "--operations", str(arguments.operations), "--workers", str(arguments.workers),
             "--keys", str(arguments.keys), "--seed", str(arguments.seed),
             "--out", arguments.out])
        faults = Faults(cluster, arguments.oms, arguments.scms, arguments.seed)
        time.sleep(2)
        # At ten operations a second each worker would stand still most of the time.
        end = time.monotonic() + 300 + arguments.operations / 10
        while load.runs:
            assert time.monotonic() < end, "the load has not ended: something hangs"
            faults.round()
        report = load.report(60)
        histories.tell(report, f"{len(faults.done)} faults")
        histories.tell_pauses(report, faults.done)
        answered = sum(report["outcomes"].values())
        good = (histories.are_linearizable(load, report, 0.8 * arguments.operations) and faults.done
                and answered >= 0.9 * report["operations"])
        print("passed" if good else f"FAILED, seed {arguments.seed}")
        return 0 if good else 1
    finally:
        if load:
            load.kill()
        cluster.destroy()


if __name__ == "__main__":
    sys.exit(main())
