"""For tests that need namespaces of their own: they start again in these, or say why that cannot be."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile


def enter(mark, needed, wrapper, trial, what):
    """Starts this program again behind `wrapper`, the command that makes the namespaces. Where that
    cannot be, says why and ends with 0: the tests are skipped, not failed.

    `mark` is the variable by which the program knows that it is there, `needed` are programs, and
    `trial` is a script that is tried in such namespaces first: it makes `what`."""
    reason = enter_if_possible(mark, needed, wrapper, trial, what)
    if reason:
        skip(reason)


def enter_with_mounts(mark, needed, trial, what):
    """As `enter`, where what the program mounts is its own. `trial` is tried with `m`, a file system
    on a loop device, mounted in the folder that it begins in."""
    with tempfile.TemporaryDirectory(prefix="apus-mounts-") as folder:
        enter(mark, needed, ["unshare", "--mount", "--propagation", "private"],
              f"cd {folder}; truncate -s 64M image; mkfs.ext4 -q image; mkdir m;"
              f"mount -t ext4 -o loop image m; {trial} umount m; rm image", what)


def enter_if_possible(mark, needed, wrapper, trial, what):
    """As `enter`; where it cannot be, returns why. None: the program is there."""
    if os.environ.get(mark):
        return None
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if os.geteuid() != 0:
        return f"it needs root, for {what}"
    missing = [name for name in needed if not shutil.which(name)]
    if missing:
        return "it needs " + " ".join(missing)
    tried = subprocess.run(
        [*wrapper, "sh", "-ec", trial], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"{what} cannot be had: {tried.stderr.strip()}"
    os.environ[mark] = "1"
    inside = subprocess.Popen([*wrapper, sys.executable, *sys.argv])

    def hand_on(number, _):
        """The program within cleans up, and ends; its wrapper takes no signals."""
        children = pathlib.Path(f"/proc/{inside.pid}/task/{inside.pid}/children")
        for child in children.read_text().split() if children.exists() else []:
            os.kill(int(child), number)

    for number in [signal.SIGTERM, signal.SIGINT]:
        signal.signal(number, hand_on)
    sys.exit(inside.wait())


def skip(reason):
    print(f"SKIPPED {pathlib.Path(sys.argv[0]).name}: {reason}")
    sys.exit(0)
