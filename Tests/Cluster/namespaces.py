"""For tests that need namespaces of their own: they start again in these, or say why that cannot be."""

import os
import pathlib
import shutil
import subprocess
import sys


def enter(mark, needed, wrapper, trial, what):
    """Starts this program again behind `wrapper`, the command that makes the namespaces. Where that
    cannot be, says why and ends with 0: the tests are skipped, not failed.

    `mark` is the variable by which the program knows that it is there, `needed` are programs, and
    `trial` is a script that is tried in such namespaces first: it makes `what`."""
    if os.environ.get(mark):
        return
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if os.geteuid() != 0:
        skip(f"it needs root, for {what}")
    missing = [name for name in needed if not shutil.which(name)]
    if missing:
        skip("it needs " + " ".join(missing))
    tried = subprocess.run(
        [*wrapper, "sh", "-ec", trial], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        skip(f"{what} cannot be had: {tried.stderr.strip()}")
    os.environ[mark] = "1"
    sys.exit(subprocess.run([*wrapper, sys.executable, *sys.argv], check=False).returncode)


def skip(reason):
    print(f"SKIPPED {pathlib.Path(sys.argv[0]).name}: {reason}")
    sys.exit(0)
