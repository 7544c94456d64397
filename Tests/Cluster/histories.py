"""What a run of `apus bench consistency` found while something was done to the cluster."""

import pathlib
import statistics


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
    return (load.returncode == 0 and report["verdict"] == "linearizable"
            and report["operations"] >= least)
