"""What a packet costs in two versions, from runs of the benchmark in turn. Pure: scripts/bench-against feeds it.

A run is the list of lines that `cargo bench -- packet --json` writes; `pairs` are runs of the one version and the
other, each next to the other. What counts is a program's median over that of the empty program in the same run.
Low and high are the least and the most of all pairs: of five, the true median lies between them in 15 cases of 16.
"""

import math
import statistics

import bench_tables as tables

# What makes a line the same in two runs; what an older version does not say is what it had.
NAMES = {
    "program": None, "family": None, "policy": None, "flow": None, "keys": "hot", "ipcache": 0, "prefixes": False,
    "rules": 0, "flows": 0, "bucket": "",
}
# Kinds of lines that versions are judged by: a heading, and what they have in common beside an enforced policy
# and any bucket.
KINDS = [
    ("established, hot", {"flow": "established", "keys": "hot", "ipcache": 400}),
    ("established, a million flows at random", {"flow": "established", "keys": "random", "flows": 1_000_000}),
    ("new, hot", {"flow": "new", "keys": "hot", "rules": 100}),
    ("new, random over 65 536 live flows", {"flow": "new", "keys": "random", "rules": 100, "flows": 65_536}),
]
# Less than a clock tells is no divisor.
LEAST_NS = 0.1


def name(line):
    return tuple(line.get(field, usual) for field, usual in NAMES.items())


def by_name(run):
    return {name(line): tables.over(line) for line in run}


def spread(values):
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratio(new, old):
    return new / max(old, LEAST_NS)


def compared(pairs):
    """A row for each line that all runs of both versions have, in the order of the first run."""
    read = [(by_name(old), by_name(new)) for old, new in pairs]
    rows = []
    for wanted in read[0][0]:
        if all(wanted in run for pair in read for run in pair):
            old, new = ([pair[which][wanted] for pair in read] for which in (0, 1))
            rows.append({
                **dict(zip(NAMES, wanted)),
                "old": old,
                "new": new,
                "difference": spread([b - a for a, b in zip(old, new)]),
                "ratio": spread([ratio(b, a) for a, b in zip(old, new)]),
            })
    return rows


def missing(pairs):
    """Lines that not all runs have: those of the old version and of the new one."""
    everywhere = {tuple(row[field] for field in NAMES) for row in compared(pairs)}
    found = [[one for pair in pairs for one in by_name(pair[which]) if one not in everywhere] for which in (0, 1)]
    return [list(dict.fromkeys(names)) for names in found]


def of_kind(rows, wanted):
    fields = {"policy": "enforce", "bucket": "", **wanted}
    found = [row for row in rows if all(row[field] == value for field, value in fields.items())]
    return [row for row in found if row["program"] in tables.PROGRAMS]


def summary(rows):
    """For each kind the mean ratio of its lines, with its spread over the runs, and the worst line's."""
    found = []
    for kind, wanted in KINDS:
        lines = of_kind(rows, wanted)
        if not lines:
            continue
        means = [
            statistics.geometric_mean([max(ratio(row["new"][run], row["old"][run]), 1e-3) for row in lines])
            for run in range(len(lines[0]["old"]))
        ]
        worst = max(lines, key=lambda row: row["ratio"]["median"])
        found.append({"kind": kind, "lines": len(lines), "ratio": spread(means), "worst": worst})
    return found


def label(row):
    text = f"{row['program']}, IPv{row['family']}, {row['policy']}, {row['flow']}, {row['keys']}"
    if row["bucket"]:
        text += f", {row['bucket']}"
    return text


def sizes(row):
    what = "prefixes" if row["prefixes"] else "hosts"
    counts = [(row["ipcache"], what), (row["rules"], "rules"), (row["flows"], "flows")]
    return ", ".join(f"{tables.grouped(count)} {of}" for count, of in counts if count)


def between(figure, show=tables.number):
    return f"{show(figure['median'])} ({show(figure['low'])} to {show(figure['high'])})"


def times(value):
    return f"{value:.2f}" if math.isfinite(value) else "-"


def table(rows):
    heading = ["ns over empty", "with", "old", "new", "difference", "ratio"]
    cells = [
        [
            label(row), sizes(row), tables.number(statistics.median(row["old"])),
            tables.number(statistics.median(row["new"])), between(row["difference"]), between(row["ratio"], times),
        ]
        for row in rows
    ]
    return [heading] + cells


def summary_table(found):
    heading = ["new of old", "lines", "mean ratio", "worst ratio", "of"]
    return [heading] + [
        [
            one["kind"], str(one["lines"]), between(one["ratio"], times), between(one["worst"]["ratio"], times),
            label(one["worst"]),
        ]
        for one in found
    ]


def aligned(rows, names):
    """Lines of text; so many columns at the left are names, the others numbers."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:names], widths)]
        right = [cell.rjust(width) for cell, width in zip(row[names:], widths[names:])]
        yield "  ".join(left + right).rstrip()


def report(pairs):
    """The lines of both tables, and of what is in one version only."""
    rows = compared(pairs)
    yield from aligned(summary_table(summary(rows)), 1)
    yield ""
    yield from aligned(table(rows), 2)
    for which, names in zip(("old", "new"), missing(pairs)):
        for one in names:
            row = dict(zip(NAMES, one))
            yield f"only in the {which} version: {label(row)}, {sizes(row)}"
