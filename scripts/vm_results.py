"""What a guest told about its tests, judged and counted. Pure: scripts/test-vm feeds it.

The guest's lines: `KERNEL release tcx=… btf=…`, `BEGIN name`, `| a line of the output of the test that
ends next`, `END name status seconds`, `DONE`. A test that was skipped says so in its output, with
`SKIPPED name: reason`.
"""

import dataclasses
import re

TIERS = ["programs", "cli", "e2e", "vectors", "common"]
OUTCOMES = ["passed", "failed", "skipped"]
# Of GNU timeout, when it had to end what it ran: by SIGTERM, by SIGKILL.
TIMED_OUT = (124, 137)


@dataclasses.dataclass
class Result:
    outcome: str
    # Why it was skipped, or what went wrong.
    reason: str = ""
    output: tuple = ()
    seconds: int = 0


def judged(name, status, seconds, output):
    text = "\n".join(output)
    if status in TIMED_OUT:
        return Result("failed", f"did not end within {seconds} s", output, seconds)
    if status != 0:
        return Result("failed", f"exit status {status}", output, seconds)
    if skipped := re.search(rf"SKIPPED {re.escape(name)}: (.*)", text):
        return Result("skipped", skipped[1], output, seconds)
    if "; 1 ignored;" in text:
        return Result("skipped", "ignored", output, seconds)
    # A name that matches no test is a success of libtest's.
    if "test result: ok. 1 passed;" not in text:
        return Result("failed", "did not run", output, seconds)
    return Result("passed", "", output, seconds)


class Run:
    """The tests of one kernel."""

    def __init__(self, series, names):
        self.series = series
        self.kernel = "did not start"
        self.results = {}
        self.done = False
        self.missing = list(names)
        self._begun = []
        self._output = []

    def read(self, line):
        """Takes one line; the name of the test that it ended, if it did."""
        word, _, rest = line.partition(" ")
        if word == "|":
            self._output.append(rest)
        elif word == "KERNEL":
            release, tcx, btf = rest.split()
            has = [("TCX", tcx == "tcx=yes"), ("BTF", btf == "btf=yes")]
            self.kernel = ", ".join([release] + [f"{'' if there else 'no '}{what}" for what, there in has])
        elif word == "BEGIN":
            self._begun.append(rest)
        elif word == "END":
            name, status, seconds = rest.split()
            self.results[name] = judged(name, int(status), int(seconds), tuple(self._output))
            self._output = []
            self._begun.remove(name)
            self.missing.remove(name)
            return name
        elif word == "DONE":
            self.done = True
        return None

    def end(self, why, console):
        """The guest is gone; `console` has its last lines. What it owes has failed."""
        if self.missing or not self.done:
            why = f"{why}, {len(self.missing)} tests without a result"
            if self._begun:
                why += f"; begun, not ended: {', '.join(self._begun)}"
            self.results["the guest"] = Result("failed", why, tuple(console))

    def count(self, tier, outcome):
        tiers = [name.partition("::")[0] for name, result in self.results.items() if result.outcome == outcome]
        return tiers.count(tier)

    def tiers(self):
        """Those that ran; what is of no tier that is known, the guest itself for one, goes last."""
        found = {name.partition("::")[0] for name in self.results}
        return sorted(found, key=lambda tier: (TIERS.index(tier) if tier in TIERS else len(TIERS), tier))


def good(runs):
    outcomes = [[result.outcome for result in run.results.values()] for run in runs]
    return bool(runs) and all(of_run and "failed" not in of_run for of_run in outcomes)


def report(runs):
    """The lines of the table, of what was skipped, and of what failed."""
    for run in runs:
        yield f"{run.series}: {run.kernel}"
    rows = [["KERNEL", "TIER"] + [outcome.upper() for outcome in OUTCOMES]]
    for run in runs:
        rows += [[run.series, tier] + [str(run.count(tier, outcome)) for outcome in OUTCOMES] for tier in run.tiers()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        names = [cell.ljust(width) for cell, width in zip(row[:2], widths)]
        yield "  ".join(names + [cell.rjust(width) for cell, width in zip(row[2:], widths[2:])])
    yield "The library's own unit tests need no kernel: make test runs them."
    for outcome in ["skipped", "failed"]:
        for run in runs:
            for name, result in run.results.items():
                if result.outcome == outcome:
                    yield f"{outcome} on {run.series}: {name}: {result.reason}"
                    if outcome == "failed":
                        yield from (f"    {line}" for line in result.output)
    if not good(runs):
        yield "FAILED, or nothing ran on one of the kernels"
