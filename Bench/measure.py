"""CPU clocks, samples, rows, and what the machine is."""

import datetime
import os
import pathlib
import platform
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
GIB = 1 << 30


def cpu_seconds(pid):
    """User and system time of a whole process, to the nanosecond.

    The clock of clock_getcpuclockid(3): it counts every thread, those that have ended and the
    kernel's workers of the process's rings included."""
    return time.clock_gettime((~pid << 3) | 2)


def children(pid):
    """The direct children of a process."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


class Meter:
    """Elapsed and CPU seconds of named processes over a `with` block.

    `processes` is a dict of name to id, read at the start; all must live through the block."""

    def __init__(self, processes):
        self.processes = processes

    def __enter__(self):
        self.before = {name: cpu_seconds(pid) for name, pid in self.processes.items()}
        self.start = time.monotonic()
        return self

    def __exit__(self, kind, *_):
        self.seconds = time.monotonic() - self.start
        if kind is None:
            self.by_name = {name: cpu_seconds(pid) - self.before[name]
                            for name, pid in self.processes.items()}
            self.cpu = sum(self.by_name.values())


def run_counted(command, **options):
    """Runs a program to its end; returns its output and the CPU seconds of it and its children."""
    import resource
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(command, capture_output=True, text=True, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {result.returncode}: {result.stderr[-600:]}"
                           f"{result.stdout[-200:]}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return result.stdout, used


class Series(dict):
    """Samples by name, one for each round."""

    def add(self, **values):
        for name, value in values.items():
            self.setdefault(name, []).append(value)

    def median(self, name):
        return statistics.median(self[name])


def spread(samples):
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples)}


def make_row(number, name, unit, product, yardstick=None, reference=None, at_most=None,
             at_least=None, judged="ratio", durability="", cache="", detail=None):
    """A row of the table.

    `judged` is what the goal is held against: the ratio of the medians, or the product's median."""
    assert (at_most is None) != (at_least is None), "a row has one goal"
    row = {"row": number, "name": name, "yardstick": yardstick, "unit": unit,
           "product": spread(product), "reference": spread(reference) if reference else None,
           "rounds": {"product": product, "reference": reference},
           "durability": durability, "page_cache": cache, "detail": detail or {}}
    base = row["reference"]["median"] if reference else 0
    row["ratio"] = row["product"]["median"] / base if base else None
    value = row["ratio"] if judged == "ratio" else row["product"]["median"]
    row["goal"] = {"limit": at_most if at_most is not None else at_least,
                   "sense": "<=" if at_most is not None else ">=", "of": judged}
    row["passed"] = value is not None and (
        value <= at_most if at_most is not None else value >= at_least)
    return row


def failed_row(number, name, reason):
    """A row that could not be measured. It counts as missed."""
    return {"row": number, "name": name, "yardstick": None, "unit": "", "product": None,
            "reference": None, "ratio": None, "goal": None, "passed": False, "error": reason}


def _output(*command):
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        return (result.stdout or result.stderr).strip()
    except OSError:
        return ""


def load_average():
    return pathlib.Path("/proc/loadavg").read_text().split()[:3]


def environment(apus):
    """What the figures hold for: versions, processor, kernel, file system, load."""
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo")
                if line.startswith("model name")), platform.machine())
    flags = next((set(line.split()) for line in open("/proc/cpuinfo")
                  if line.startswith("flags")), set())
    memory = int(next(line.split()[1] for line in open("/proc/meminfo"))) >> 20
    place = os.environ.get("APUS_TEST_TMP", "/tmp")
    commit = os.environ.get("APUS_COMMIT") or _output(
        "git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "apus": f"{_output(apus, '--version')} commit {commit or 'unknown'}",
        "cpu": f"{os.cpu_count()} x {cpu}",
        "features": [name for name in ("avx2", "avx512f", "gfni", "vaes", "vpclmulqdq")
                     if name in flags],
        "memory_gib": memory, "kernel": platform.release(),
        "file_system": _output("stat", "-f", "-c", "%T", place),
        "isa_l": _output("dpkg-query", "-W", "-f", "${Version}", "libisal2") or "unknown",
        "nginx": _output("nginx", "-v").replace("nginx version: ", "") or "missing",
        "fio": _output("fio", "--version") or "missing",
        "iperf3": (_output("iperf3", "--version").splitlines() or ["missing"])[0],
        "load_average": load_average(),
    }
