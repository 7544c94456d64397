#!/usr/bin/env python3
"""`make bench`: each row of the table beside its yardstick, alternating within one run.

    make bench ARGS="--rows 9,10 --rounds 7 --quick --json FILE"

docs/reference/performance.md explains the rows. Files go to APUS_TEST_TMP (default: the system's
temporary directory), which decides the disk. Exit 0: every row passed; 1: some missed or could
not be measured; 2: wrong usage."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from measure import ROOT, environment, failed_row, load_average  # noqa: E402

ALL_ROWS = set(range(1, 32))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="all", help="numbers and ranges, as in 6-8,12")
    parser.add_argument("--rounds", type=int, help="measurements of each (default 7)")
    parser.add_argument("--quick", action="store_true", help="less of everything, 3 rounds")
    parser.add_argument("--json", metavar="FILE", help="write everything that was measured")
    arguments = parser.parse_args()
    rows = set()
    for part in arguments.rows.split(","):
        try:
            first, _, last = part.partition("-")
            rows |= ALL_ROWS if part == "all" else set(range(int(first), int(last or first) + 1))
        except ValueError:
            parser.error(f"--rows takes numbers and ranges, not '{part}'")
    if not rows <= ALL_ROWS or not rows:
        parser.error(f"there are rows 1 to {max(ALL_ROWS)}")
    if arguments.rounds is None:
        arguments.rounds = 3 if arguments.quick else 7
    if arguments.rounds < 1:
        parser.error("--rounds takes 1 and more")
    arguments.rows = rows
    return arguments


def say(text):
    """Progress, on standard error."""
    print(time.strftime("%H:%M:%S ") + text, file=sys.stderr, flush=True)


def carry_out(experiment, wanted, rounds):
    """Prepares, measures and closes one experiment. What fails becomes rows that say why."""
    say(experiment.title + ": preparing")
    try:
        try:
            experiment.prepare()
            for number in range(rounds):
                say(f"{experiment.title}: round {number + 1} of {rounds}")
                experiment.round(number)
            return experiment.rows()
        finally:
            experiment.close()
    except Exception as error:  # A row that cannot be measured is shown as such.
        traceback.print_exc()
        return [failed_row(number, experiment.title, f"{type(error).__name__}: {error}")
                for number in sorted(wanted & experiment.numbers)]


def kernel_rows(wanted, rounds):
    """Rows 1 to 5, which kernel-bench measures by itself."""
    program = os.environ.get("APUS_KERNEL_BENCH", str(ROOT / ".build/release/kernel-bench"))
    say("erasure coding and checksums beside ISA-L: kernel-bench")
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        try:
            result = subprocess.run([program, "--json", file.name, "--rounds", str(max(7, rounds))],
                                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if result.returncode not in (0, 1):  # 1: a goal was missed, the rows say which.
                raise OSError(f"it ended with {result.returncode}: {result.stdout[-300:]}")
            rows = json.loads(pathlib.Path(file.name).read_text())
        except (OSError, ValueError) as error:
            return [failed_row(number, "kernel-bench", str(error))
                    for number in sorted(wanted & {1, 2, 3, 4, 5})]
    for row in rows:
        # It gives the goal as a number, held against the ratio: at least for a throughput, at
        # most for a cost.
        sense = ">=" if row["unit"].endswith("/s") else "<="
        row["goal"] = {"limit": row["goal"], "sense": sense, "of": "ratio"}
        row["page_cache"] = "no disk"
    found = [row for row in rows if row["row"] in wanted]
    missing = (wanted & {1, 2, 3, 4, 5}) - {row["row"] for row in found}
    return found + [failed_row(n, "kernel-bench", "it printed no such row") for n in missing]


# The table


def figure(value):
    """Three digits of a number, at most seven characters."""
    if value is None:
        return "-"
    magnitude = abs(value)
    if magnitude >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if magnitude >= 10 else f"{value:.2f}" if magnitude >= 1 \
        else f"{value:.3f}"


def goal_text(row):
    goal = row["goal"]
    sign = {"<=": "≤", ">=": "≥"}[goal["sense"]]
    return f"{sign} {goal['limit']:g}" + ("×" if goal["of"] == "ratio" else "")


def spread_text(values):
    if not values:
        return "-"
    return f"{figure(values['median'])} [{figure(values['min'])}–{figure(values['max'])}]"


def table(rows):
    """At most 110 columns, a line for each row; what could not be measured says why."""
    yield (f"{'row':>3} {'work':30} {'unit':9} {'apus':>19} {'yardstick':>19} {'ratio':>6} "
           f"{'goal':>7}")
    for row in sorted(rows, key=lambda row: row["row"]):
        verdict = "passed" if row["passed"] else "MISSED"
        if row.get("error"):
            yield f"{row['row']:>3} {row['name'][:30]:30} MISSED: {row['error'][:65]}"
            continue
        yield (f"{row['row']:>3} {row['name'][:30]:30} {row['unit'][:9]:9} "
               f"{spread_text(row['product']):>19} {spread_text(row.get('reference')):>19} "
               f"{figure(row['ratio']):>6} {goal_text(row):>7} {verdict}")


def notes(rows):
    """What stands beside each row: yardstick, durability, page cache."""
    for row in sorted(rows, key=lambda row: row["row"]):
        parts = [f"yardstick: {row['yardstick']}" if row.get("yardstick") else "",
                 f"durability: {row['durability']}" if row.get("durability") else "",
                 f"cache: {row['page_cache']}" if row.get("page_cache") else ""]
        if row.get("error"):
            parts = [row["error"]]
        if any(parts):
            text = f"{row['row']:>3} {row['name']}: " + "; ".join(filter(None, parts))
            yield textwrap.fill(text, 108, subsequent_indent="    ")


def experiments(wanted, quick):
    """The experiments that hold the wanted rows, in the order they are run."""
    from datapath import AppendRows, ReadRows, RPCRows
    from deletionrow import DeletionRow
    from grouprow import GroupRows
    from growthrow import GrowthRow
    from memoryrow import MemoryRow
    from metricsrow import MetricsRow
    from omrow import OMRows
    from repairrow import RepairRows
    from s3rows import RangeRow, S3Rows
    from scmrow import SCMRow
    from scrubrow import ScrubRow
    for kind in [AppendRows, ReadRows, RPCRows, S3Rows, RangeRow, ScrubRow, MetricsRow,
                 OMRows, MemoryRow, DeletionRow, GroupRows, GrowthRow,
                 SCMRow, RepairRows]:
        if wanted & kind.numbers:
            yield kind(wanted, quick)


def main():
    arguments = parse()
    apus = os.environ.setdefault("APUS_BINARY", str(ROOT / ".build/release/apus"))
    about = environment(apus)
    started = time.monotonic()
    rows = []
    if arguments.rows & {1, 2, 3, 4, 5}:
        rows += kernel_rows(arguments.rows, arguments.rounds)
    for experiment in experiments(arguments.rows, arguments.quick):
        rows += carry_out(experiment, arguments.rows, arguments.rounds)
    for number in sorted(arguments.rows - {row["row"] for row in rows}):
        rows.append(failed_row(number, "no experiment", "this row cannot be measured yet"))
    about["load_average_end"] = load_average()
    about["minutes"] = round((time.monotonic() - started) / 60, 1)
    about["rounds"] = arguments.rounds
    for name, value in about.items():
        text = " ".join(value) if isinstance(value, list) else value
        print(f"{name.replace('_', ' '):16} {text}")
    print()
    for line in table(rows):
        print(line)
    print()
    for line in notes(rows):
        print(line)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(
            json.dumps({"environment": about, "rows": rows}, indent=2, ensure_ascii=False) + "\n")
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
