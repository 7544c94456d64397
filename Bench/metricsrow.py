"""Row 16: what the recording of metrics costs of the CPU of all roles."""

import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time

from measure import Series, make_row
from s3load import MixedPlan, Plan, PreparedLoad
from s3rows import SYNC, Apus, settle

MIB = 1 << 20


def find_symbolizer():
    """llvm-symbolizer, from PATH or from beside the Swift compiler."""
    swift = shutil.which("swift")
    places = [os.environ["PATH"], str(pathlib.Path(swift).resolve().parent) if swift else ""]
    found = next(filter(None, (shutil.which("llvm-symbolizer", path=p) for p in places)), None)
    if not found:
        raise RuntimeError("llvm-symbolizer is missing (it comes with Swift; Debian: llvm)")
    return found


class Profile:
    """Samples of the CPU of processes over a `with` block, by `perf record`, with call chains."""

    RATE = 997
    ATTEMPTS = 10

    def __init__(self, pids):
        program = shutil.which("perf")
        if not program:
            raise RuntimeError("perf is missing (Debian: linux-perf)")
        self.program, self.pids = program, pids

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(
            prefix="apus-perf-", dir=os.environ.get("APUS_TEST_TMP"))
        self.file = pathlib.Path(self.folder.name, "perf.data")
        # It ends at once if a thread ends between its being found and attached to.
        for _ in range(self.ATTEMPTS):
            if self.start():
                return self
        self.folder.cleanup()
        raise RuntimeError(f"perf record ended with {self.process.returncode}: "
                           + self.process.stderr.read()[-300:])

    def start(self):
        """Whether perf has attached to every thread, which it does before it opens its file."""
        self.file.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [self.program, "record", "-F", str(self.RATE), "-g", "-o", str(self.file),
             "-p", ",".join(map(str, self.pids))],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(250):
            if self.process.poll() is not None or (
                    self.file.exists() and self.file.stat().st_size > 0):
                break
            time.sleep(0.02)
        time.sleep(0.3)
        return self.process.poll() is None

    def __exit__(self, kind, *_):
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=60)
        try:
            self.samples = list(self.read()) if kind is None else []
        finally:
            self.folder.cleanup()

    def read(self):
        """Each sample: its frames, innermost first, as (address in the file, symbol, file)."""
        result = subprocess.run(
            [self.program, "script", "-i", str(self.file), "-F", "ip,sym,dso"],
            capture_output=True, text=True, errors="replace", check=True)
        for block in result.stdout.split("\n\n"):
            frames = [(int(address, 16), symbol, file) for address, symbol, file in
                      re.findall(r"^\s*([0-9a-f]+) (.*) \((.*?)\)$", block, re.MULTILINE)]
            if frames:
                yield frames


class Sources:
    """Which source files machine code came from, by the program's debugging information."""

    def __init__(self, program):
        self.program, self.symbolizer = program, find_symbolizer()
        text = subprocess.run(["readelf", "-lW", program], capture_output=True, text=True,
                              check=True).stdout
        # (offset in the file, address, bytes) of what is loaded.
        self.segments = [tuple(int(number, 16) for number in found) for found in re.findall(
            r"LOAD\s+(0x\w+)\s+(0x\w+)\s+0x\w+\s+(0x\w+)", text)]
        self.known = {}

    def address(self, offset):
        """perf tells code by its offset in the file, debugging information by address."""
        for start, address, count in self.segments:
            if start <= offset < start + count:
                return offset - start + address
        return offset

    def look_up(self, offsets):
        """Fills `known`: offset to [(function, source file)], what was inlined first."""
        wanted = sorted(set(offsets) - self.known.keys())
        text = "".join(f"{self.address(offset):#x}\n" for offset in wanted)
        result = subprocess.run(
            [self.symbolizer, f"--obj={self.program}", "--inlines", "--functions=linkage"],
            input=text, capture_output=True, text=True, check=True)
        answers = result.stdout.strip("\n").split("\n\n")
        if len(answers) != len(wanted):
            raise RuntimeError(f"{len(wanted)} addresses and {len(answers)} answers")
        for offset, answer in zip(wanted, answers):
            lines = answer.split("\n")
            self.known[offset] = list(zip(lines[0::2], lines[1::2]))


class Recording:
    """Which samples lie in the recording of metrics.

    A sample belongs to the innermost function of the project in its chain, inlined ones told
    apart: so what the runtime or the kernel does for a function counts for that function, and what
    a function has others do does not."""

    FILES = re.compile(r"/Sources/(Telemetry/|MetricsGateway/|.*/Measured\w*\.swift|"
                       r".*Metrics\.swift|.*\+Trace\.swift|.*/Trace\w*\.swift)")
    # Records what the disk did, in histograms of each class.
    FUNCTIONS = re.compile(r"Reactor4Disk\w*record")
    PROJECT = re.compile(r"/Sources/")
    OTHERS = re.compile(r"/checkouts/")
    CLOCK = re.compile(r"clock_gettime|\[vdso\]")
    # Frames of the program that are looked at in each sample.
    DEPTH = 8

    def __init__(self, program):
        self.program = os.path.basename(program)
        self.sources = Sources(program)

    def own(self, sample):
        """Offsets of the program's code in a sample, innermost first."""
        found = []
        for number, (address, _, file) in enumerate(sample):
            if os.path.basename(file) == self.program:
                # A caller's address is that of the instruction after the call.
                found.append(address - (number > 0))
        return found[:self.DEPTH]

    def owner(self, sample):
        """(function, source) of the project that the sample belongs to; None: of none."""
        for offset in self.own(sample):
            for function, source in self.sources.known[offset]:
                if self.PROJECT.search(source) and not self.OTHERS.search(source):
                    return function, source
        return None

    def shares(self, samples):
        """Percent of the samples in the recording, in reading clocks, and of no known owner."""
        self.sources.look_up(offset for sample in samples for offset in self.own(sample))
        recording = clock = unknown = 0
        for sample in samples:
            owner = self.owner(sample)
            if owner and (self.FILES.search(owner[1]) or self.FUNCTIONS.search(owner[0])):
                recording += 1
            elif self.CLOCK.search(sample[0][1] + sample[0][2]):
                clock += 1
            elif owner is None:
                unknown += 1
        scale = 100 / len(samples)
        return recording * scale, clock * scale, unknown * scale


class MetricsRow:
    """Row 16: share of the samples of all roles under a mix of small and large PUTs and GETs.

    What is recorded, and every reading of a clock, as most of them are made to record. Beside it
    the CPU seconds of the same load on a second cluster that measures nothing, in turns: that has
    all of the cost, but also the noise of whole seconds."""

    numbers = {16}
    title = "the recording of metrics, in samples of all roles under S3 load, rs-3-2-1024k"
    # Fewer samples than these tell nothing about a hundredth.
    least_samples = 1000

    def __init__(self, wanted, quick):
        self.small = [(f"small-{n:04}", n) for n in range(400 if quick else 1500)]
        self.large = [(f"mib-{n:04}", n) for n in range(150 if quick else 600)]
        self.series = Series()
        self.random = random.Random(16)

    def prepare(self):
        Profile([])  # Says what is missing before anything is stored.
        self.recording = Recording(os.environ["APUS_BINARY"])
        self.apus = Apus()
        self.without = Apus(options=["--set", "telemetry.enabled=false"])
        for apus in [self.apus, self.without]:
            for plan in self.plans("PUT"):
                PreparedLoad(plan, apus.target, 8).run()
            for plan in self.plans("GET"):
                PreparedLoad(plan, apus.target, 8, verify=True).run()
        settle()

    def plans(self, method):
        return [Plan(method, self.small, 4096), Plan(method, self.large, MIB)]

    def round(self, number):
        mix = MixedPlan(self.plans("PUT") + self.plans("GET"), self.random)
        load = PreparedLoad(mix, self.apus.target, 16)
        with Profile(self.apus.processes.values()) as profile:
            result, meter = self.apus.measure(load)
        if len(profile.samples) < self.least_samples:
            raise RuntimeError(f"perf took {len(profile.samples)} samples only")
        recording, clock, unknown = self.recording.shares(profile.samples)
        self.series.add(
            product=recording + clock, recording_percent=recording, clock_percent=clock,
            unowned_percent=unknown,
            samples=len(profile.samples), cpu=meter.cpu,
            requests_s=result["requests"] / result["seconds"])
        settle()
        seconds = {}
        for apus in [self.apus, self.without][::1 if number % 2 else -1]:
            _, meter = apus.measure(PreparedLoad(mix, apus.target, 16))
            seconds[apus] = meter.cpu
            settle()
        self.series.add(
            cpu_with=seconds[self.apus], cpu_without=seconds[self.without],
            more_percent=(seconds[self.apus] / seconds[self.without] - 1) * 100)

    def rows(self):
        detail = {key: self.series.median(key) for key in self.series if key != "product"}
        return [make_row(
            16, "cost of metrics, mixed S3 load", "% CPU", self.series["product"],
            "all samples of all roles under the same load; "
            f"{detail['clock_percent']:.2f} % of them read a clock, for whatever reason; "
            f"{detail['more_percent']:+.1f} % CPU against a cluster that measures nothing",
            [100.0] * len(self.series["product"]), at_most=1, judged="product", durability=SYNC,
            cache="O_DIRECT, no cache", detail=detail)]

    def close(self):
        for apus in filter(None, [getattr(self, "apus", None), getattr(self, "without", None)]):
            apus.destroy()
