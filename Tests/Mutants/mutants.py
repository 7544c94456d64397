#!/usr/bin/env python3
"""Puts each defect of core.txt into a copy of Raft's core and has the simulator find it; with
--driver each of driver.txt into a copy of the members that serve.

Usage: mutants.py [--driver [--in FOLDER]] [WORD…]

Words choose defects whose name holds one of them. FOLDER is a copy of the repository that is built
already; without it one is made and built, which takes minutes.

Prints one line for each: the seed that found it and what it found. Exits 1 if one was not found,
did not build, or no longer fits the source.
"""
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


def run(folder, seeds, options):
    """The line that says what was found; None if nothing was."""
    command = [folder / ".build/release/simulate", "--from", "1", "--seeds", str(seeds), *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode == 0:
        return None
    found = re.search(r"^(seed \d+, step .*|.*trapped at seed \d+)",
                      done.stdout + done.stderr, re.M)
    return found.group(1) if found else f"exit {done.returncode}"


def judge(folder, sources, mutant):
    path = folder / sources / mutant.file
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


def judge_all(mutants, folder, sources):
    passed = 0
    for mutant in mutants:
        start = time.monotonic()
        is_found, text = judge(folder, sources, mutant)
        passed += is_found
        print(f"{mutant.name}: {text[:150]} ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"{passed} passed, {len(mutants) - passed} failed")
    return passed == len(mutants)


def main(arguments):
    is_driver = "--driver" in arguments
    words = [a for a in arguments if a != "--driver"]
    built = None
    if "--in" in words:
        place = words.index("--in")
        built = Path(words[place + 1])
        del words[place:place + 2]
    mutants = read_mutants(Path(__file__).with_name("driver.txt" if is_driver else "core.txt"))
    chosen = [m for m in mutants if not words or any(w in m.name for w in words)]
    if is_driver:
        for mutant in chosen:
            mutant.options = ["--driver", *mutant.options]
    if built:
        return 0 if judge_all(chosen, built, "Sources") else 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if is_driver:
            hidden = shutil.ignore_patterns(".build", ".git", ".venv")
            shutil.copytree(ROOT, folder, dirs_exist_ok=True, ignore=hidden)
        else:
            (folder / "Package.swift").write_text(PACKAGE)
            for target in ["Raft", "Simulator", "simulate"]:
                shutil.copytree(ROOT / "Sources" / target, folder / "Sources" / target)
            # The members that serve are not there.
            (folder / "Sources/simulate/SimulateDriver.swift").write_text(NO_DRIVER)
        is_found = judge_all(chosen, folder, "Sources" if is_driver else "Sources/Raft")
    return 0 if is_found else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
