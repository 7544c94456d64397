"""What a run of `apus bench consistency` found while something was done to the cluster."""

import json
import pathlib
import signal
import statistics
import subprocess
import tempfile


class Load:
    """A run of `apus bench consistency --json`. What it prints goes to a file: nobody reads a pipe
    while something is done to the cluster, and who writes to a full one never ends."""

    def __init__(self, command):
        self.output = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdout=self.output, text=True)

    @property
    def runs(self):
        return self.process.poll() is None

    def stop(self):
        """Has it end and check what it saw."""
        self.process.send_signal(signal.SIGINT)

    def report(self, seconds):
        """What it found, once it has ended; fails if it has not after so long."""
        try:
            code = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the load has not ended after {seconds} s more") from None
        self.output.seek(0)
        text = self.output.read()
        assert text, f"the load ended with {code} and reported nothing"
        return json.loads(text)

    def kill(self):
        if self.runs:
            self.process.kill()
        self.process.wait(timeout=60)
        self.output.close()


def longest(pauses, begins, ends):
    """The longest of the pauses that begin in a time, or are under way when it begins, with when it
    began; (0, the beginning) if there is none."""
    return max(((pause["seconds"], pause["began"]) for pause in pauses
                if begins - 0.2 <= pause["began"] + pause["seconds"] and pause["began"] < ends),
               default=(0.0, begins))


def tell(report, what):
    """Prints how it came out; `what` is what was done meanwhile."""
    print(f"  {report['operations']} operations on {report['keys']} keys in "
          f"{report['seconds']:.0f} s, {report['unanswered']} unanswered, {what}: "
          f"{report['verdict']}")
    for name, count in sorted(report["errors"].items()):
        print(f"  {name}: {count}, as {report['examples'][name]}")
    for name in report["histories"]:
        print(pathlib.Path(name).read_text())


def tell_pauses(report, events):
    """Prints the longest times without a write around events, pairs of kind and time, by kind."""
    found = {}
    for place, (kind, when) in enumerate(events):
        until = events[place + 1][1] if place + 1 < len(events) else when + 60
        found.setdefault(kind, []).append(longest(report["pauses"], when, until)[0])
    for kind, seconds in sorted(found.items()):
        print(f"  {kind}: {len(seconds)} times, without a write for "
              f"{statistics.median(seconds):.2f} s (median), {max(seconds):.2f} s (longest)")


def are_linearizable(load, report, least):
    """Whether the run ended well, after so many operations at least."""
    return (load.process.returncode == 0 and report["verdict"] == "linearizable"
            and report["operations"] >= least)
