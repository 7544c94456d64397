#!/usr/bin/env python3
"""First figures: put and get of 1 GiB over S3, with the CPU seconds of each role.

Runs a cluster of separate processes on this machine, all of them on the disk that holds APUS_TEST_TMP
(default: the system's temporary directory). Durability: sync. The client's own time is not counted.
Beside it, in the same minutes: writing the same bytes with dd and fdatasync, once."""

import hashlib
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "Tests" / "Cluster"))
from rig import Cluster  # noqa: E402

MIB = int(os.environ.get("APUS_BENCH_MIB", "1024"))
ROUNDS = int(os.environ.get("APUS_BENCH_ROUNDS", "3"))
ROLES = ["s3g1", "om1", "scm1"] + [f"dn{i}" for i in range(1, 6)]


def cpu(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(cluster, work):
    before = {role: cpu(cluster.pid(role)) for role in ROLES}
    start = time.time()
    work()
    elapsed = time.time() - start
    return elapsed, {role: cpu(cluster.pid(role)) - before[role] for role in ROLES}


def main():
    cluster = Cluster()
    rows = []
    try:
        cluster.start()
        client = cluster.client()
        client.create_bucket(Bucket="bench")
        path = os.path.join(cluster.dir, "body")
        generator = random.Random(1)
        with open(path, "wb") as file:
            for _ in range(MIB):
                file.write(generator.randbytes(1 << 20))
        url = cluster.client().generate_presigned_url(
            "put_object", Params={"Bucket": "bench", "Key": "one"}, ExpiresIn=3600)
        get = cluster.client().generate_presigned_url(
            "get_object", Params={"Bucket": "bench", "Key": "one"}, ExpiresIn=3600)
        for number in range(ROUNDS):
            start = time.time()
            subprocess.run(["dd", f"if={path}", f"of={cluster.dir}/copy", "bs=1M", "conv=fdatasync",
                            "status=none"], check=True)
            rows.append(("dd", number, time.time() - start, {}))
            os.unlink(f"{cluster.dir}/copy")
            elapsed, used = measure(cluster, lambda: subprocess.run(
                ["curl", "-sSf", "-T", path, url], check=True, stdout=subprocess.DEVNULL))
            rows.append(("put", number, elapsed, used))
            elapsed, used = measure(cluster, lambda: subprocess.run(
                ["curl", "-sSf", "-o", f"{cluster.dir}/back", get], check=True))
            rows.append(("get", number, elapsed, used))
            assert (hashlib.sha256(open(f"{cluster.dir}/back", "rb").read()).digest()
                    == hashlib.sha256(open(path, "rb").read()).digest()), "bytes differ"
    finally:
        cluster.destroy()
    scale = 1024 / MIB
    print(f"{MIB} MiB over S3, rs-3-2-1024k, five datanodes and all roles on one machine, synced; "
          f"median of {ROUNDS} (CPU seconds for each GiB)")
    result = {}
    for kind in ["dd", "put", "get"]:
        mine = [row for row in rows if row[0] == kind]
        seconds = statistics.median(row[2] for row in mine) * scale
        roles = {role: round(statistics.median(row[3].get(role, 0) for row in mine) * scale, 2)
                 for role in ROLES}
        total = statistics.median(sum(row[3].values()) for row in mine) * scale
        result[kind] = {"seconds": round(seconds, 2), "cpu": round(total, 2), "roles": roles}
        print(f"{kind:4} {seconds:6.2f} s elapsed  {total:6.2f} CPU-s  " + (
            "(client's yardstick: one copy, fdatasync)" if kind == "dd" else "  ".join(
                f"{role} {value:.2f}" for role, value in roles.items())))
    if len(sys.argv) > 2 and sys.argv[1] == "--json":
        pathlib.Path(sys.argv[2]).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
