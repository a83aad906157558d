"""What is wanted of the figures, beside what came of it. Pure: scripts/bench_report.py feeds it."""

import bench_tables as tables

MILLION = 1_000_000


def dearest(lines, **wanted):
    """What the dearest of the lines with these values costs; None if there is none."""
    lines = [{"keys": "hot", **line} for line in lines]
    found = [line for line in lines if all(line.get(name) == value for name, value in wanted.items())]
    return max(map(tables.over, found), default=None)


def ratio(one, other):
    return None if one is None or not other else one / other


def packet(lines, family):
    """Rows of a target, the most that it allows, what was measured, and the unit."""

    def of(**wanted):
        return dearest(lines, family=family, **wanted)

    hot = {"keys": "hot", "policy": "enforce", "flow": "established"}
    yield "established flow, hot", {4: 55, 6: 70}[family], of(**hot, ipcache=400), "ns"
    grown = [
        ratio(of(**hot, program=program, ipcache=MILLION), of(**hot, program=program, ipcache=400))
        for program in tables.PROGRAMS
    ]
    yield "a million ipcache entries, of 400", 1.1, max((one for one in grown if one), default=None), "times"
    for flows in (10_000, MILLION):
        of_one = {"keys": "random", "flow": "established", "flows": flows}
        bare = of(**of_one, policy="off")
        most = None if bare is None else 1.2 * bare + 30
        yield f"{tables.grouped(flows)} live flows, random", most, of(**of_one, policy="enforce"), "ns"
    lookup = {"keys": "random", "flow": "none", "ipcache": MILLION}
    bare = of(**lookup, program="bare hash lookup")
    for prefixes, what, most in [(False, "hosts", 1.2), (True, "prefixes", 2)]:
        ours = of(**lookup, program="from_netdev", prefixes=prefixes)
        yield f"a million {what}, random, of a bare hash lookup", most, ratio(ours, bare), "times"
    for flow in ("new", "denied"):
        of_one = {"keys": "random", "flow": flow, "policy": "enforce"}
        grown = [
            ratio(of(**of_one, program=program, rules=16_000), of(**of_one, program=program, rules=10))
            for program in tables.PROGRAMS
        ]
        yield f"{flow} flow, 16 000 rules, of 10", 1.3, max((one for one in grown if one), default=None), "times"
    yield "new flow, hot", 250, of(keys="hot", policy="enforce", flow="new"), "ns"


def figure(figures, measure):
    found = [figure for figure in figures if figure["measure"] == measure]
    return max((figure["median"] for figure in found), default=None)


def rows(run):
    """A table of all that can be told from this run."""
    heading = [["target", "wanted", "measured", "met"]]
    found = []
    for family in (4, 6):
        for what, most, measured, unit in packet(run.get("packet", []), family):
            found.append((f"IPv{family}, {what}", "at most", most, measured, unit))
    soak = run.get("soak", [])
    found.append(("soak, connections", "at least", 10_000, figure(soak, "rate"), "a second"))
    found.append(("soak, connections lost", "at most", 0, figure(soak, "lost"), ""))
    found.append(("soak, packets dropped", "at most", 0, figure(soak, "dropped"), ""))
    return heading + [row(*one) for one in found if one[2] is not None and one[3] is not None]


def row(what, bound, limit, measured, unit):
    met = measured <= limit if bound == "at most" else measured >= limit
    return [what, f"{bound} {tables.number(limit)} {unit}".strip(), tables.number(measured), "yes" if met else "no"]
