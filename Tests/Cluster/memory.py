"""Memory of processes."""

import pathlib
import re


def pss(pid):
    """The proportional set of a process in bytes: pages that n processes share count as 1/n. Fails
    with OSError if there is no such process."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE).group(1)) << 10
