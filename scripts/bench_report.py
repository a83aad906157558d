#!/usr/bin/python3 -B
"""Draws the charts of docs/performance and fills the tables of docs/performance.md, both from the JSON
that scripts/bench has left in docs/performance. In another folder if one is named.

It takes matplotlib, which scripts/deps installs for Debian's own Python: hence the first line.
"""

import json
import pathlib
import sys

import bench_tables
import bench_targets

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"


def main(docs):
    folder = docs / "performance"
    run = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    if not run:
        sys.exit(f"bench_report: {folder} has no JSON; `make bench` measures, and writes it")
    targets = bench_tables.markdown(bench_targets.rows(run))

    def table(name):
        return targets if name == "targets" else bench_tables.table(run, name)

    document = docs / "performance.md"
    document.write_text(bench_tables.filled(document.read_text(), table))
    print(targets)
    # Late, so that the tables do without it.
    import bench_charts

    for path in bench_charts.draw(run, folder):
        print(f"bench_report: {path}", file=sys.stderr)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
