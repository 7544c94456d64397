#!/usr/bin/env python3
"""Puts each defect of core.txt into a copy of Raft's core and has the simulator find it; with
--driver each of driver.txt into a copy of the members that serve.

Usage: mutants.py [--driver [--in FOLDER]] [WORD…]

Words choose defects whose name holds one of them. FOLDER is a copy of the repository that is built
already, not the repository itself; without it one is made and built, which takes minutes.

Prints one line for each: the seed that found it and what it found. A defect is found by a failure of
the checkers alone, or where its list says `trap` by a precondition of what is tested; and the same
seed must pass without it. Exits 1 if one was not found so, did not build, took too long, or no longer
fits the source.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Seconds that one defect's seeds may take.
LONGEST = 1200
# Seeds that pass without any defect before one is put in.
CONTROLS = 10
PROGRAM = ".build/release/simulate"
ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = """// swift-tools-version: 6.2
import PackageDescription
let settings: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"), .enableUpcomingFeature("MemberImportVisibility"),
]
let package = Package(
    name: "mutants", platforms: [.macOS(.v26)],
    targets: [
        .target(name: "Raft", swiftSettings: settings),
        .target(name: "Simulator", dependencies: ["Raft"], swiftSettings: settings),
        .executableTarget(
            name: "simulate", dependencies: ["Simulator"], swiftSettings: settings),
    ])
"""

NO_DRIVER = """import Simulator
enum SimulateDriver {
    static func runOne(_ seed: UInt64, _ options: Options) -> Bool { false }
    static func run(_ seed: UInt64, isLong: Bool) -> (String?, Statistics) { ("", Statistics()) }
}
"""

MUTANT_NUMBER = """import Glibc
/// The defect that is switched on.
@usableFromInline
let mutantNumber = getenv("MUTANT").flatMap { Int(String(cString: $0)) } ?? 0
"""


class Mutant:
    def __init__(self, name):
        self.name = name
        self.seeds = 0
        self.options = []
        # A precondition finds it, by ending the process.
        self.traps = False
        self.file = ""
        self.old = []
        self.new = []


def read_mutants(path):
    mutants = []
    for line in path.read_text().splitlines():
        if line.startswith("= "):
            mutants.append(Mutant(line[2:]))
        elif not mutants or not line:
            continue
        elif line.startswith("seeds "):
            mutants[-1].seeds = int(line[6:])
        elif line.startswith("options "):
            mutants[-1].options = line[8:].split()
        elif line == "trap":
            mutants[-1].traps = True
        elif line.startswith("file "):
            mutants[-1].file = line[5:]
        elif line.startswith("- "):
            mutants[-1].old.append(line[2:])
        elif line.startswith("+ "):
            mutants[-1].new.append(line[2:])
        else:
            sys.exit(f"{path.name}: what is '{line}'?")
    return mutants


def build(folder):
    return subprocess.run(
        ["swift", "build", "-c", "release", "-Xswiftc", "-enable-testing", "--product", "simulate"],
        cwd=folder, capture_output=True, text=True)


class Run:
    """The seeds from `first` on, until one fails: which seed found what, or why none did."""

    def __init__(self, program, first, seeds, options, number=0, traps=False):
        self.seed = None
        self.text = ""
        command = [program, "--from", str(first), "--seeds", str(seeds), *options]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST,
                                  env={**os.environ, "MUTANT": str(number)})
        except subprocess.TimeoutExpired:
            self.text = f"TOOK TOO LONG: {seeds} seeds are not done after {LONGEST} s"
            return
        self.has_passed = done.returncode == 0
        output = done.stdout + done.stderr
        found = re.search(r"^seed (\d+), step \d+, second +[\d.]+: .*", output, re.M)
        trapped = re.search(r"^Seed (\d+) ended the process by signal [45]$", output, re.M)
        if self.has_passed:
            self.text = f"NOT FOUND in {seeds} seeds"
        elif found and done.returncode == 1:
            self.seed, self.text = int(found.group(1)), found.group(0)
        elif trapped and traps:
            self.seed, self.text = int(trapped.group(1)), f"seed {trapped.group(1)}: a precondition"
        else:
            last = output.strip().splitlines()[-1:] or ["nothing"]
            self.text = f"NOT JUDGED: exit {done.returncode} with '{last[0]}'"

    has_passed = False


def find(program, control, mutant, options, number=0):
    """Whether the defect was found, and what was."""
    run = Run(program, 1, mutant.seeds, options, number, mutant.traps)
    if run.seed is None:
        return False, run.text
    without = Run(control, run.seed, 1, options)
    if not without.has_passed:
        return False, f"seed {run.seed} FAILS WITHOUT IT: {without.text}"
    return True, run.text


def require_control(program, options):
    """Ends the script unless the first seeds pass where no defect is on."""
    run = Run(program, 1, CONTROLS, options)
    if not run.has_passed:
        sys.exit(f"without any defect: {run.text}")


def judge(folder, control, mutant):
    path = folder / "Sources/Raft" / mutant.file
    text = path.read_text()
    old, new = "\n".join(mutant.old), "\n".join(mutant.new)
    if text.count(old) != 1:
        return False, f"the text to replace occurs {text.count(old)} times"
    path.write_text(text.replace(old, new))
    try:
        built = build(folder)
        if built.returncode != 0:
            return False, "does not build: " + built.stdout[-400:]
        return find(folder / PROGRAM, control, mutant, mutant.options)
    finally:
        path.write_text(text)


def judge_core(mutants, folder):
    """Builds one mutant after the other; returns how many were found."""
    (folder / "Package.swift").write_text(PACKAGE)
    for target in ["Raft", "Simulator", "simulate"]:
        shutil.copytree(ROOT / "Sources" / target, folder / "Sources" / target)
    # The members that serve are not there.
    (folder / "Sources/simulate/SimulateDriver.swift").write_text(NO_DRIVER)
    built = build(folder)
    if built.returncode != 0:
        sys.exit("the core does not build: " + built.stdout[-2000:])
    control = folder / "control"
    shutil.copy(folder / PROGRAM, control)
    require_control(control, [])
    return sum(report(mutant, lambda: judge(folder, control, mutant)) for mutant in mutants)


def judge_driver(mutants, folder, is_made):
    """Builds all mutants into one program; returns how many were found."""
    if not is_made:
        hidden = shutil.ignore_patterns(".build", ".git", ".venv")
        shutil.copytree(ROOT, folder, dirs_exist_ok=True, ignore=hidden)
    originals = {}
    try:
        for number, mutant in enumerate(mutants, 1):
            path = folder / "Sources" / mutant.file
            text = path.read_text()
            originals.setdefault(path, text)
            old = "\n".join(mutant.old)
            if text.count(old) != 1:
                sys.exit(f"{mutant.name}: the text to replace occurs {text.count(old)} times")
            new = "\n".join(mutant.new).replace("MUTANT", f"(mutantNumber == {number})")
            path.write_text(text.replace(old, new))
        for module in ["RaftLog", "RaftDriver"]:
            (folder / "Sources" / module / "MutantNumber.swift").write_text(MUTANT_NUMBER)
        built = build(folder)
        if built.returncode != 0:
            sys.exit("the mutants do not build: " + built.stdout[-2000:])
    finally:
        for path, text in originals.items():
            path.write_text(text)
        for module in ["RaftLog", "RaftDriver"]:
            (folder / "Sources" / module / "MutantNumber.swift").unlink(missing_ok=True)
    program = folder / PROGRAM
    require_control(program, ["--driver"])
    count = 0
    for number, mutant in enumerate(mutants, 1):
        def judged():
            return find(program, program, mutant, ["--driver", *mutant.options], number)
        count += report(mutant, judged)
    return count


def checked_folder(arguments):
    """The folder behind --in, as far as it can be one."""
    if not arguments or arguments[0].startswith("--"):
        sys.exit("--in needs a folder: a copy of the repository that is built already")
    folder = Path(arguments[0]).resolve()
    for part in ["Package.swift", "Sources/RaftDriver", "Sources/RaftLog", ".build"]:
        if not (folder / part).exists():
            sys.exit(f"--in {folder}: there is no {part}, so it is no built copy of the repository")
    if folder.samefile(ROOT):
        sys.exit(f"--in {folder}: that is the repository itself, whose sources would be changed")
    return folder


def report(mutant, judged):
    start = time.monotonic()
    is_found, text = judged()
    print(f"{mutant.name}: {text[:150]} ({time.monotonic() - start:.0f} s)", flush=True)
    return is_found


def main(arguments):
    is_driver = "--driver" in arguments
    words = [a for a in arguments if a != "--driver"]
    made = None
    if "--in" in words:
        if not is_driver:
            sys.exit("--in is for --driver: the core is built apart")
        place = words.index("--in")
        made = checked_folder(words[place + 1:])
        del words[place:place + 2]
    unknown = [w for w in words if w.startswith("--")]
    if unknown:
        sys.exit(f"there is no option {unknown[0]}\n\n{__doc__}")
    mutants = read_mutants(Path(__file__).with_name("driver.txt" if is_driver else "core.txt"))
    chosen = [m for m in mutants if not words or any(w in m.name for w in words)]
    if not chosen:
        sys.exit(f"no defect has a name with {' or '.join(words)} in it")
    with tempfile.TemporaryDirectory() as name:
        if is_driver:
            found = judge_driver(chosen, made or Path(name), made is not None)
        else:
            found = judge_core(chosen, Path(name))
    print(f"{found} found, {len(chosen) - found} not")
    return 0 if found == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
