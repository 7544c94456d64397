#!/usr/bin/env python3
"""Puts each defect of core.txt into a copy of Raft's core and has the simulator find it.

Usage: mutants.py [WORD…]   only defects whose name holds one of the words

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
    done = subprocess.run(
        [folder / ".build/release/simulate", "--from", "1", "--seeds", str(seeds), *options],
        capture_output=True, text=True)
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


def main(words):
    mutants = read_mutants(Path(__file__).with_name("core.txt"))
    chosen = [m for m in mutants if not words or any(w in m.name for w in words)]
    passed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "Package.swift").write_text(PACKAGE)
        for target in ["Raft", "Simulator", "simulate"]:
            shutil.copytree(ROOT / "Sources" / target, folder / "Sources" / target)
        for mutant in chosen:
            start = time.monotonic()
            is_found, text = judge(folder, mutant)
            passed += is_found
            print(f"{mutant.name}: {text[:150]} ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"{passed} passed, {len(chosen) - passed} failed")
    return 0 if passed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
