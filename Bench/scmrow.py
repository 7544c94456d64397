"""Row 29: what a heartbeat without news costs SCM with a million containers."""

import json
import os
import subprocess

from measure import ROOT, make_row


class SCMRow:
    """The core of SCM alone. The yardstick is the same with a hundredth of the containers: costs
    are to follow what changed, not what there is."""

    title = "SCM's core with many containers: scm-bench"
    numbers = {29}
    SMALL = (10_000, 100)
    LARGE = (1_000_000, 1000)

    def __init__(self, wanted, quick):
        self.program = os.environ.get("APUS_SCM_BENCH", str(ROOT / ".build/release/scm-bench"))
        self.found = {self.SMALL: [], self.LARGE: []}

    def prepare(self):
        pass

    def round(self, number):
        for size in (self.SMALL, self.LARGE):
            result = subprocess.run(
                [self.program, *map(str, size)], capture_output=True, text=True, check=True)
            self.found[size].append(json.loads(result.stdout))

    def rows(self):
        def microseconds(size, name):
            return [found[name] * 1e6 for found in self.found[size]]
        detail = {name: {"small": microseconds(self.SMALL, name),
                         "large": microseconds(self.LARGE, name)}
                  for name in ("heartbeatSeconds", "newsSeconds", "lookSeconds")}
        detail["memoryMiB"] = [found["memoryBytes"] >> 20 for found in self.found[self.LARGE]]
        return [make_row(
            29, "SCM heartbeat, 1M containers", "µs",
            microseconds(self.LARGE, "heartbeatSeconds"), "the same with 10,000 containers",
            microseconds(self.SMALL, "heartbeatSeconds"), at_most=3, detail=detail)]

    def close(self):
        pass
