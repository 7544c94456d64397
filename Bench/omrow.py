"""Rows 17 to 20: names alone. Keys opened and committed a CPU second of the Ozone Manager, with
few keys in its tables and with many, and how soon it serves again after a crash."""

import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import time

from measure import GIB, Meter, Series, make_row
from s3rows import SYNC, Apus

BUCKET = "/s3v/bench"
# What names begin with; of the keys made here and of those that `apus bench om` makes.
PREFIX = "apus-bench/"


class OMRows:
    """Two clusters whose OMs differ in the keys that they hold, loaded in turn.

    The first keys are not written through OM, which would take an hour, but into its tables while
    it is down: rows like those that it makes, under names between which the new ones fall."""

    numbers = {17, 18, 19, 20}
    title = "names in the Ozone Manager"
    clients = 256
    transactions = 2  # An open and a commit a key.

    def __init__(self, wanted, quick):
        self.few = 100_000
        self.many = 1_000_000 if quick else 10_000_000
        self.count = 10_000 if quick else 20_000
        self.series = {"few": Series(), "many": Series()}
        self.restarts = []
        self.clusters = {}

    def prepare(self):
        temporary = os.environ.get("APUS_TEST_TMP", "/tmp")
        wanted = 1000 * self.many
        if shutil.disk_usage(temporary).free < wanted:
            raise RuntimeError(f"{wanted / GIB:.0f} GiB of disk are wanted")
        for name, keys in [("few", self.few), ("many", self.many)]:
            self.clusters[name] = Apus()
            self.load(name, 500)
            self.fill(self.clusters[name].cluster, keys)
            self.load(name, self.count)

    def fill(self, cluster, keys):
        """Stops the cluster, adds rows of keys to OM's tables, and starts it."""
        cluster.stop()
        database = sqlite3.connect(f"{cluster.dir}/om1/metadata.db", isolation_level=None)
        database.execute("PRAGMA synchronous = OFF")
        key, value = database.execute(
            "SELECT k, v FROM t5 WHERE instr(k, ?) ORDER BY k LIMIT 1",
            (PREFIX.encode(),)).fetchone()
        bucket = key[:8]
        step = (1 << 63) // keys
        database.execute("BEGIN")
        # In the order of the names, which are hexadecimal numbers at equal distances.
        database.execute(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?) "
            "INSERT OR IGNORE INTO t5 "
            "SELECT CAST(? || CAST(printf('%s%016x', ?, i * ?) AS BLOB) AS BLOB), ? FROM n",
            (keys, bucket, PREFIX, step, value))
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        cluster.start()

    def load(self, name, count):
        """Transactions a CPU second of OM."""
        cluster = self.clusters[name].cluster
        with Meter({"om1": cluster.pid("om1")}) as meter:
            result = subprocess.run(
                [os.environ["APUS_BINARY"], "bench", "om", "--dir", cluster.dir,
                 "--bucket", BUCKET, "--prefix", PREFIX, "--clients", str(self.clients),
                 "--count", str(count), "--length", "4096", "--scatter", "--keep", "--json"],
                capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RuntimeError(f"apus bench om: {(result.stderr or result.stdout)[-300:]}")
        found = json.loads(result.stdout)["operations"][0]
        if found["count"] != count or found["errors"]:
            raise RuntimeError(f"apus bench om: {found['count']} of {count} keys were made")
        return self.transactions * count / meter.by_name["om1"]

    def restart(self):
        """Seconds until OM serves after SIGKILL in the middle of a load."""
        cluster = self.clusters["many"].cluster
        loading = subprocess.Popen(
            [os.environ["APUS_BINARY"], "bench", "om", "--dir", cluster.dir, "--bucket", BUCKET,
             "--prefix", PREFIX, "--clients", "64", "--duration", "30s", "--scatter", "--keep"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1.5)
        cluster.kill("om1")
        loading.terminate()
        loading.wait(timeout=60)
        began = time.monotonic()
        cluster.restart("om1", "om")
        name = f"{PREFIX}{0:016x}"
        info = cluster.apus("key", "info", f"{BUCKET}/{name}", "--json")
        seconds = time.monotonic() - began
        if json.loads(info.stdout)["length"] != 4096:
            raise RuntimeError(f"the key {name} is not as it was")
        return seconds

    def round(self, number):
        for name in ["few", "many"]:
            self.series[name].add(rate=self.load(name, self.count))
        self.restarts.append(self.restart())

    def rows(self):
        few, many = (self.series[name]["rate"] for name in ["few", "many"])
        text = f"{self.clients} clients, 4 KiB keys committed, names in no order"
        cache = "tables in the page cache, 16 MiB of pages and 64 MiB of records in OM"
        return [
            make_row(17, f"OM, {self.few:,} keys: open, commit", "tx/CPU-s", few,
                     yardstick=text + "; each is a transaction; goal: 20,000", at_least=20_000,
                     judged="product", durability=SYNC, cache=cache),
            make_row(18, f"OM, {self.many:,} keys: open, commit", "tx/CPU-s", many,
                     yardstick=text + "; goal: 20,000", at_least=20_000, judged="product",
                     durability=SYNC, cache=cache),
            make_row(19, f"OM, {self.many:,} against {self.few:,}", "tx/CPU-s", many,
                     yardstick="the same with few keys", reference=few, at_least=0.75,
                     durability=SYNC, cache=cache),
            make_row(20, f"OM restart, {self.many:,} keys", "s", self.restarts,
                     yardstick="SIGKILL under load, until it answers a look-up; goal: 2 s",
                     at_most=2, judged="product", durability=SYNC,
                     cache="files in the page cache"),
        ]

    def close(self):
        for cluster in self.clusters.values():
            cluster.destroy()
