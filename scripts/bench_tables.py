"""What scripts/bench has measured, as tables. Pure: scripts/bench_report.py feeds it.

`run` is a dictionary of what lies in docs/performance: `packet` a list of lines, `machine` an object,
every other section a list of figures.
"""

import re

EMPTY = "Not in this run."
PROGRAMS = ["from_container", "to_container", "from_netdev", "to_netdev"]
# What a packet is where its keys are hot: a heading, the mode of the policy, the flow.
FLOWS = [
    ("no policy", "off", "none"),
    ("established", "enforce", "established"),
    ("new", "enforce", "new"),
    ("denied", "enforce", "denied"),
    ("forwarded", "enforce", "forwarded"),
]
# A workload's new flow without a look at a route, and with one (benches/packet/hot.rs).
HOST_FLOWS = ["new", "new, rules name host or world", "new to the host, rules name host or world"]


def number(value):
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def grouped(count):
    return f"{count:,}".replace(",", " ")


def markdown(rows, names=1):
    """The first row is the heading; so many columns at the left are names, the others numbers."""
    rule = ["---"] * names + ["--:"] * (len(rows[0]) - names)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [rows[0], rule, *rows[1:]])


def over(line):
    """What a program costs beside the empty one, in ns: medians, or the best rounds where these are all."""
    if "median_ns" in line:
        return line["median_ns"] - line.get("floor_median_ns", line["floor_ns"])
    return line["ns"] - line["floor_ns"]


def is_random(line):
    return line.get("keys") == "random"


def of_bucket(line):
    """Whether it is known in which bucket of conntrack the flow is."""
    return bool(line.get("bucket"))


def hot(lines, family, program, policy, flow):
    """The one such line; beside it stand others, of the same over a larger ipcache."""
    found = [
        line
        for line in lines
        if not is_random(line)
        and not of_bucket(line)
        and (line["family"], line["program"], line["policy"], line["flow"]) == (family, program, policy, flow)
    ]
    return min(found, key=lambda line: line["ipcache"], default=None)


def packet_hot(lines):
    rows = [["program", "family"] + [f"{name}, ns" for name, *_ in FLOWS] + ["instructions"]]
    for program in PROGRAMS:
        for family in (4, 6):
            found = [hot(lines, family, program, policy, flow) for _, policy, flow in FLOWS]
            cells = [number(over(line)) if line else "" for line in found]
            largest = max((line["insns"] for line in found if line), default="")
            rows.append([program, f"IPv{family}", *cells, largest])
    return rows


def packet_host(lines):
    rows = [["from_container, ns over empty", "IPv4", "IPv6"]]
    for flow in HOST_FLOWS:
        found = [hot(lines, family, "from_container", "enforce", flow) for family in (4, 6)]
        rows.append([flow] + [number(over(line)) if line else "" for line in found])
    return rows


def of_ipcache(line):
    return is_random(line) and line["flow"] == "none"


def of_rules(line):
    known = of_new_flows(line) or of_bucket(line)
    return is_random(line) and (line["flow"] == "denied" or line["flow"] == "new" and not known)


def of_flows(line):
    return is_random(line) and line["flow"] == "established"


def of_new_flows(line):
    """These are about conntrack: all have the same rules, or are bare lookups that have none."""
    return is_random(line) and line["flow"] == "new" and line["rules"] in (0, 100) and not of_bucket(line)


# What grows in the lines that a name stands for.
GROWING = {
    "ipcache": (of_ipcache, "ipcache"),
    "rules": (of_rules, "rules"),
    "flows": (of_flows, "flows"),
    "new flows": (of_new_flows, "flows"),
}


def series_name(line):
    """Of lines that differ in size alone."""
    name = line["program"]
    if line["flow"] == "none":
        name += ", prefixes" if line.get("prefixes") else ", hosts"
    elif not name.startswith("bare"):
        name += f", {line['flow']}"
    return name


def series(lines, name):
    """For each family and series the lines by size, in the order in which they come."""
    wanted, grows = GROWING[name]
    found = {}
    for line in filter(wanted, lines):
        found.setdefault((series_name(line), line["family"]), {})[line[grows]] = line
    return found


def packet_growing(lines, name):
    found = series(lines, name)
    sizes = sorted({size for of in found.values() for size in of})
    rows = [["ns over empty", "family"] + [grouped(size) for size in sizes]]
    for (label, family), of in found.items():
        rows.append([label, f"IPv{family}"] + [number(over(of[size])) if size in of else "" for size in sizes])
    return rows


def packet_buckets(lines):
    rows = [["flow", "bucket", "program", "family", "ns over empty"]]
    for line in filter(of_bucket, lines):
        family = f"IPv{line['family']}"
        rows.append([line["flow"], line["bucket"], line["program"], family, number(over(line))])
    return rows


def interval(figure):
    if figure["rounds"] == 1:
        return number(figure["median"])
    return f"{number(figure['median'])} ({number(figure['low'])} to {number(figure['high'])})"


def figures_all(figures):
    heading = ["measure", "of", "size", "median (low to high)", "unit", "rounds"]
    return [heading] + [
        [f["measure"], f["subject"], grouped(f["size"]), interval(f), f["unit"], f["rounds"]] for f in figures
    ]


def figures_of(figures, measure):
    """One measure: who across how many."""
    found = [figure for figure in figures if figure["measure"] == measure]
    sizes = sorted({figure["size"] for figure in found})
    subjects = list(dict.fromkeys(figure["subject"] for figure in found))
    cells = {(figure["subject"], figure["size"]): interval(figure) for figure in found}
    unit = found[0]["unit"] if found else ""
    rows = [[f"{measure}, {unit}"] + [grouped(size) for size in sizes]]
    return rows + [[subject] + [cells.get((subject, size), "") for size in sizes] for subject in subjects]


def machine(facts):
    return [["machine", ""]] + [[name, value] for name, value in facts.items()]


def table(run, name):
    """The table of a marker: `machine`, `packet WHAT`, `SECTION` or `SECTION: MEASURE`."""
    section, colon, measure = (part.strip() for part in name.partition(":"))
    section, _, what = section.partition(" ")
    known = section in ("machine", "packet", "peers", "attach", "control", "soak")
    if not known or (section == "packet") != (
        what in ("hot", "host", "buckets") or what in GROWING
    ):
        raise ValueError(f"no table is called `{name}`")
    if section not in run:
        return EMPTY
    data, names = run[section], 2
    if section == "machine":
        rows = machine(data)
    elif section == "packet":
        if what == "buckets":
            rows, names = packet_buckets(data), 4
        elif what == "host":
            rows, names = packet_host(data), 1
        else:
            rows = packet_hot(data) if what == "hot" else packet_growing(data, what)
    elif colon:
        rows, names = figures_of(data, measure), 1
    else:
        rows = figures_all(data)
    return markdown(rows, names) if len(rows) > 1 else EMPTY


MARKER = re.compile(r"(<!-- table: (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(document, tables):
    """The document with what `tables` makes of each marker's name between that marker and its end."""
    markers = len(re.findall(r"<!-- table: ", document))
    if markers != len(MARKER.findall(document)) or markers != document.count("<!-- end -->"):
        raise ValueError("a table has no end, or an end no table: `<!-- table: NAME -->`, a line's end, `<!-- end -->`")
    return MARKER.sub(lambda match: f"{match[1]}{tables(match[2])}\n{match[3]}", document)
