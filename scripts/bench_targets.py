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


def medians(figures, measure, subject=None, size=None):
    """Of all figures of a measure: those of one subject and size, if they are named."""
    found = [one for one in figures if one["measure"] == measure]
    found = [one for one in found if subject in (None, one["subject"]) and size in (None, one["size"])]
    return [one["median"] for one in found]


def most(*args, **wanted):
    return max(medians(*args, **wanted), default=None)


def least(*args, **wanted):
    return min(medians(*args, **wanted), default=None)


def peers(figures):
    """The kinds of traffic are named as in benches/peers/measures.rs; the worse of two sizes counts."""
    for kind in ("", ", IPv6", ", 500 flows"):
        added = most(figures, f"cpu per packet{kind} added, against nftables", "cilmark")
        yield f"CPU added to a packet{kind}, of what nftables adds", "at most", 0.6, added, "times"
    for kind in ("with GRO", "without GSO"):
        lost = least(figures, f"tcp throughput {kind} against nothing", "cilmark")
        yield f"TCP throughput {kind}, against nothing", "at least", -2, lost, "%"
    ours = "local delivery"
    for kind in ("", ", IPv6", ", 500 flows"):
        cpu = most(figures, f"cpu per packet{kind} against nothing", ours)
        yield f"local delivery, CPU of a packet{kind}, against nothing", "at most", -10, cpu, "%"
        rate = least(figures, f"packet rate{kind} against nothing", ours)
        yield f"local delivery, packets a second{kind}, against nothing", "at least", 0, rate, "%"
    p50 = most(figures, "latency p50 against nothing", ours)
    yield "local delivery, p50 of a round trip, against nothing", "at most", 0, p50, "%"


def attach(figures):
    for kind in ("tcx", "clsact"):
        all_of_them = most(figures, "attach", f"{kind}, off, one process, all till then")
        alone = most(figures, "attach", f"{kind}, kernel alone", 1000)
        share = None if None in (all_of_them, alone) else all_of_them - alone
        yield f"1 000 attached in one process, {kind}, own share of each", "at most", 2, share, "ms"
        share = most(figures, "attach, own share", f"{kind}, off, one by one", 1000)
        yield f"one attached by the command beside 1 000, {kind}, own share", "at most", 2, share, "ms"
        beside_none = most(figures, "attach, own share", f"{kind}, off, one by one", 1)
        more = None if None in (share, beside_none) else share - beside_none
        yield f"one attached by the command beside 1 000, {kind}, more than beside none", "at most", 2, more, "ms"
    for mode in ("off", "enforce"):
        memory = most(figures, "program memory", f"tcx, {mode}, memlock")
        yield f"memory of an endpoint's programs, policy {mode}", "at most", 32, memory, "KiB"


def control(figures):
    for what, limit in [("hosts", 1), ("prefixes", 3)]:
        took = most(figures, "ipcache load", what, MILLION)
        yield f"a million {what} loaded", "at most", limit, took, "s"
    for change, what in [("set", "one more"), ("del", "one less")]:
        took = most(figures, f"ipcache {change}", "prefixes", MILLION)
        yield f"a million prefixes, {what}", "at most", 20, took, "ms"


def soak(figures):
    yield "soak, connections", "at least", 10_000, most(figures, "rate"), "a second"
    yield "soak, connections lost", "at most", 0, most(figures, "lost"), ""
    yield "soak, packets dropped", "at most", 0, most(figures, "dropped"), ""
    for of in ("first packets", "handshakes"):
        ended = most(figures, "flood, answered flows ended", of)
        yield f"flood of {of}, answered flows ended", "at most", 0, ended, ""
    refused = most(figures, "flood, failsafe connections refused", "first packets")
    yield "flood of first packets, failsafe connections refused", "at most", 0, refused, ""


def rows(run):
    """A table of all that can be told from this run."""
    heading = [["target", "wanted", "measured", "met"]]
    found = []
    for family in (4, 6):
        for what, limit, measured, unit in packet(run.get("packet", []), family):
            found.append((f"IPv{family}, {what}", "at most", limit, measured, unit))
    for section in (peers, attach, control, soak):
        found.extend(section(run.get(section.__name__, [])))
    return heading + [row(*one) for one in found if one[2] is not None and one[3] is not None]


def row(what, bound, limit, measured, unit):
    met = measured <= limit if bound == "at most" else measured >= limit
    return [what, f"{bound} {tables.number(limit)} {unit}".strip(), tables.number(measured), "yes" if met else "no"]
