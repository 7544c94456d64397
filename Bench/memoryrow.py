#!/usr/bin/env python3
"""Row 21: memory of a whole cluster with nothing to do, from an empty start and after a load.

As a program it tells the memory of processes that run, by role and by what it is used for:

    python3 Bench/memoryrow.py --dir DIR           # the roles of `apus up --separate --dir DIR`
    python3 Bench/memoryrow.py --pid PID [--pid …]
"""

import argparse
import collections
import json
import pathlib
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "Tests" / "Cluster"))
from memory import pss  # noqa: E402

MIB = 1 << 20
HEAD = re.compile(r"^[0-9a-f]+-[0-9a-f]+ (\S+) \S+ \S+ \d+ *(.*)$")


def kind(rights, name):
    """What a mapping is used for."""
    if name.startswith("/memfd:"):
        return name.split()[0].removeprefix("/memfd:")
    if name.startswith("/"):
        return "program: code" if "x" in rights else "program: data"
    if name in ("[heap]", "[stack]"):
        return name[1:-1]
    # malloc's arenas, arenas of buffers, stacks of threads.
    return "anonymous"


def mappings(pid):
    """Proportional bytes by use."""
    found = collections.Counter()
    current = None
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = HEAD.match(line)
        if head:
            current = kind(*head.groups())
        elif line.startswith("Pss:"):
            found[current] += int(line.split()[1]) << 10
        elif line.startswith("AnonHugePages:") and int(line.split()[1]):
            found["of it huge pages"] += int(line.split()[1]) << 10
    return {use: count for use, count in found.items() if count}


def separate_roles(folder):
    """Ids by name of the role processes of `apus up --separate`."""
    return {path.stem: int(path.read_text())
            for path in sorted(pathlib.Path(folder, "run").glob("*.pid"))}


class MemoryRow:
    """Row 21: PSS of all processes of `apus up` with five datanodes.

    From an empty start, a minute after it serves, in one process and in one for each role; and a
    minute after the end of 10 GiB of load (PUTs and GETs of 64 MiB and of 1 MiB by 8 clients) on the
    latter. Memory does not depend on what else the machine does: one measurement a figure."""

    numbers = {21}
    title = "memory of a cluster with nothing to do"
    pause = 60

    def __init__(self, wanted, quick):
        self.gib = 2 if quick else 10
        self.found = {}

    def prepare(self):
        from s3rows import Apus
        for separate in [False, True]:
            apus = Apus(separate=separate)
            try:
                time.sleep(self.pause)
                self.note("one process" if not separate else "processes", apus)
                if separate:
                    self.load(apus)
                    self.note("end of load", apus)
                    time.sleep(self.pause)
                    self.note("after load", apus)
            finally:
                apus.destroy()

    def load(self, apus):
        from s3load import Plan, PreparedLoad
        large = [(f"large-{n:03}", n) for n in range(8)]
        small = [(f"small-{n:04}", n) for n in range(256)]
        left = self.gib << 30
        while left > 0:
            for method in ["PUT", "GET"]:
                for objects, size in [(large, 64 * MIB), (small, MIB)]:
                    PreparedLoad(Plan(method, objects, size), apus.target, 8).run()
                    left -= len(objects) * size

    def note(self, name, apus):
        pids = {"up": apus.cluster.process.pid, **separate_roles(apus.cluster.dir)}
        self.found[name] = {role: pss(pid) / MIB for role, pid in pids.items()}

    def round(self, number):
        pass

    def rows(self):
        from measure import make_row
        names = [("one process", "idle from an empty start, one process", 64),
                 ("processes", "idle from an empty start, --separate", 110),
                 ("after load", f"a minute after {self.gib} GiB, --separate", 300)]
        return [make_row(21, text, "MiB PSS", [sum(self.found[name].values())],
                         yardstick="", at_most=limit, judged="product",
                         detail={"by_role": self.found[name],
                                 "end_of_load": sum(self.found["end of load"].values())})
                for name, text, limit in names]

    def close(self):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--dir", help="given to `apus up --separate`")
    parser.add_argument("--pid", type=int, action="append", default=[])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    pids = {str(pid): pid for pid in arguments.pid}
    if arguments.dir:
        pids.update(separate_roles(arguments.dir))
    if not pids:
        parser.error("give --dir or --pid")
    table = {name: {"total": pss(pid), **mappings(pid)} for name, pid in pids.items()}
    if arguments.json:
        print(json.dumps(table, indent=2))
        return
    uses = sorted({use for row in table.values() for use in row} - {"total"})
    print(f"{'MiB PSS':10}{'total':>8}" + "".join(f"{use:>18}" for use in uses))
    sums = collections.Counter()
    for row in table.values():
        sums.update(row)
    for name, row in [*table.items(), ("all", sums)]:
        print(f"{name:10}{row['total'] / MIB:8.1f}"
              + "".join(f"{row.get(use, 0) / MIB:18.1f}" for use in uses))


if __name__ == "__main__":
    main()
