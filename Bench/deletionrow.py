"""Row 22: what clients notice of deletions that keep up with a load that replaces keys."""

import pathlib
import statistics

from measure import Series, make_row
from s3rows import SYNC, Cluster, settle

from steady_load import SteadyLoad


def discards():
    """Discards of all disks since the machine started: how many, and MiB."""
    count, sectors = 0, 0
    for line in pathlib.Path("/proc/diskstats").read_text().splitlines():
        fields = line.split()
        if len(fields) > 16 and pathlib.Path("/sys/block", fields[2]).exists():
            count += int(fields[14])
            sectors += int(fields[16])
    return count, sectors / 2048


class DeletionRow:
    """The same load on two new clusters in turn: one deletes what was replaced 3 s later, the other
    a day later, which is never. What is measured begins when holes are punched at the pace of the
    deletions: a datanode gathers them for 30 s first."""

    numbers = {22}
    warm_up = 38
    title = "a load that replaces keys, with deletions and without"

    def __init__(self, wanted, quick):
        self.seconds = 25 if quick else 60
        self.series = Series()

    def prepare(self):
        pass

    def measure(self, grace):
        cluster = Cluster(options=["--set", f"om.deletion-delay-ms={grace}"]).start()
        before = discards()
        try:
            load = SteadyLoad(cluster, self.warm_up + self.seconds).run(interval=5)
            unhealthy = load.unhealthy
            trimmed = [last - first for first, last in zip(before, discards())]
        finally:
            cluster.destroy()
        settle()
        if load.errors or unhealthy:
            raise RuntimeError(f"the load failed: {load.errors} {unhealthy}")
        rows = [row for row in load.report["series"]
                if self.warm_up < row["second"] <= self.warm_up + self.seconds]
        return (load, statistics.mean(row["operations"] for row in rows),
                statistics.median(row["p99"] for row in rows), trimmed)

    def round(self, number):
        graces = [3000, 86_400_000]
        for grace in graces if number % 2 == 0 else reversed(graces):
            load, rate, p99, trimmed = self.measure(grace)
            if grace == 3000:
                self.series.add(product=rate, p99_ms=p99,
                                pending=max(sample.pending for sample in load.samples),
                                unreclaimed=max(sample.unreclaimed for sample in load.samples),
                                discards=trimmed[0], discarded_MiB=trimmed[1])
            else:
                self.series.add(reference=rate, reference_p99_ms=p99)

    def rows(self):
        detail = {key: self.series.median(key) for key in self.series
                  if key not in ("product", "reference")}
        detail["seconds"] = self.seconds
        return [make_row(
            22, "load with deletions", "ops/s", self.series["product"],
            f"the same load whose replaced keys stay; p99 {detail['p99_ms']:.1f} and "
            f"{detail['reference_p99_ms']:.1f} ms, at most {detail['pending']:.0f} blocks wait for "
            f"a datanode and {detail['unreclaimed']:.0f} on it; "
            f"the disk trimmed {detail['discarded_MiB']:.0f} MiB in {detail['discards']:.0f} pieces",
            self.series["reference"], at_least=0.95, durability=SYNC, cache="O_DIRECT, no cache",
            detail=detail)]

    def close(self):
        pass
