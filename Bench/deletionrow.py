"""Row 22: what clients notice of deletions that keep up with a load that replaces keys."""

import statistics

from measure import Series, make_row
from s3rows import SYNC, Cluster, settle

from steady_load import SteadyLoad


class DeletionRow:
    """The same load on two new clusters in turn: one deletes what was replaced 3 s later, so that
    deletions run from the start, the other a day later, which is never."""

    numbers = {22}
    title = "a load that replaces keys, with deletions and without"

    def __init__(self, wanted, quick):
        self.seconds = 25 if quick else 60
        self.series = Series()

    def prepare(self):
        pass

    def measure(self, grace):
        cluster = Cluster(options=["--set", f"om.deletion-delay-ms={grace}"]).start()
        try:
            load = SteadyLoad(cluster, self.seconds).run(interval=5)
            unhealthy = load.unhealthy
        finally:
            cluster.destroy()
        settle()
        if load.errors or unhealthy:
            raise RuntimeError(f"the load failed: {load.errors} {unhealthy}")
        # The first seconds fill caches, and the first keys replaced have been there for no time.
        rows = [row for row in load.report["series"] if 5 < row["second"] <= self.seconds]
        return load, statistics.mean(row["operations"] for row in rows), statistics.median(
            row["p99"] for row in rows)

    def round(self, number):
        graces = [3000, 86_400_000]
        for grace in graces if number % 2 == 0 else reversed(graces):
            load, rate, p99 = self.measure(grace)
            if grace == 3000:
                self.series.add(product=rate, p99_ms=p99,
                                pending=max(sample.pending for sample in load.samples),
                                unreclaimed=max(sample.unreclaimed for sample in load.samples))
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
            f"a datanode and {detail['unreclaimed']:.0f} on it",
            self.series["reference"], at_least=0.95, durability=SYNC, cache="O_DIRECT, no cache",
            detail=detail)]

    def close(self):
        pass
