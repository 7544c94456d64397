#!/usr/bin/env python3
"""Puts each defect of core.txt into a copy of Raft's core and has the simulator find it; with
--driver each of driver.txt into a copy of the members that serve.

Usage: mutants.py [--driver [--in FOLDER]] [WORD…]

Words choose defects whose name holds one of them. FOLDER is a copy of the repository that is built
already; without it one is made and built, which takes minutes.

Prints one line for each: the seed that found it and what it found. Exits 1 if one was not found,
did not build, or no longer fits the source.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def run(folder, seeds, options, number=0):
    """The line that says what was found; None if nothing was."""
    command = [folder / ".build/release/simulate", "--from", "1", "--seeds", str(seeds), *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200,
                              env={**os.environ, "MUTANT": str(number)})
    except subprocess.TimeoutExpired:
        return None
    if done.returncode == 0:
        return None
    found = re.search(r"^(seed \d+, step .*|.*trapped at seed \d+)",
                      done.stdout + done.stderr, re.M)
    return found.group(1) if found else f"exit {done.returncode}"


def judge(folder, mutant):
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
        found = run(folder, mutant.seeds, mutant.options)
        return found is not None, found or f"NOT FOUND in {mutant.seeds} seeds"
    finally:
        path.write_text(text)


def judge_core(mutants, folder):
    """Builds one mutant after the other; returns how many were found."""
    (folder / "Package.swift").write_text(PACKAGE)
    for target in ["Raft", "Simulator", "simulate"]:
        shutil.copytree(ROOT / "Sources" / target, folder / "Sources" / target)
    # The members that serve are not there.
    (folder / "Sources/simulate/SimulateDriver.swift").write_text(NO_DRIVER)
    return sum(report(mutant, lambda: judge(folder, mutant)) for mutant in mutants)


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
    count = 0
    for number, mutant in enumerate(mutants, 1):
        def judged():
            found = run(folder, mutant.seeds, ["--driver", *mutant.options], number)
            return found is not None, found or f"NOT FOUND in {mutant.seeds} seeds"
        count += report(mutant, judged)
    return count


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
        place = words.index("--in")
        made = Path(words[place + 1])
        del words[place:place + 2]
    mutants = read_mutants(Path(__file__).with_name("driver.txt" if is_driver else "core.txt"))
    chosen = [m for m in mutants if not words or any(w in m.name for w in words)]
    with tempfile.TemporaryDirectory() as name:
        if is_driver:
            found = judge_driver(chosen, made or Path(name), made is not None)
        else:
            found = judge_core(chosen, Path(name))
    print(f"{found} found, {len(chosen) - found} not")
    return 0 if found == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
