"""Charts of what scripts/bench has measured. The same figures give the same files."""

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402: after the choice of what draws

import bench_tables as tables  # noqa: E402

# Okabe and Ito's, which colour-blind people can tell apart.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, GREY = COLOURS = [
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000", "#8c8c8c",
]
MARKERS = "osD^vPX*"
HATCHES = ["", "//", "..", "xx", "\\\\"]
SUBJECTS = {
    "cilmark": BLUE,
    "nftables": RED,
    "iptables": ORANGE,
    "tc": GREEN,
    "local delivery": SKY,
    "nothing": GREY,
}

matplotlib.rcParams.update({
    # The text is shapes: a reader's fonts have other widths.
    "svg.fonttype": "path",
    # Identifiers in the file are random otherwise.
    "svg.hashsalt": "cilmark",
    # The page behind it may be dark.
    "savefig.facecolor": "white",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
})


def save(figure, path):
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def spread(line):
    """How far an error bar reaches to each side: half of what lies between the quartiles."""
    return line.get("spread_ns", 0) / 2


def colour(subject):
    """Of the longest of the known names that it contains."""
    known = [name for name in SUBJECTS if name in subject.replace("-", " ")]
    return SUBJECTS[max(known, key=len)] if known else BLACK


def packet_hot(run):
    """Bars: programs, and in each the kinds of flow."""
    lines = run["packet"]
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    width = 0.85 / len(tables.FLOWS)
    for panel, family in zip(panels, (4, 6)):
        for place, (name, policy, flow) in enumerate(tables.FLOWS):
            found = [tables.hot(lines, family, program, policy, flow) for program in tables.PROGRAMS]
            bars = [(at + (place - 2) * width, line) for at, line in enumerate(found) if line]
            panel.bar(
                [at for at, _ in bars],
                [tables.over(line) for _, line in bars],
                width,
                yerr=[spread(line) for _, line in bars],
                error_kw={"elinewidth": 0.8, "capsize": 2},
                color=COLOURS[place],
                hatch=HATCHES[place],
                edgecolor="white",
                linewidth=0.5,
                label=name,
            )
        panel.set_xticks(range(len(tables.PROGRAMS)), tables.PROGRAMS)
        panel.grid(axis="x", visible=False)
        panel.set_title(f"IPv{family}")
    panels[0].set_ylabel("ns a packet, over an empty program")
    above(panels[0], *panels[0].get_legend_handles_labels())
    return figure


def above(panel, parts, labels):
    """A legend in one line over a panel, from its left end on; figures have none before matplotlib 3.7."""
    close = {"columnspacing": 1.2, "handletextpad": 0.5, "handlelength": 1.6, "fontsize": 9}
    panel.legend(parts, labels, loc="lower left", bbox_to_anchor=(-0.02, 1.08), ncol=len(labels), **close)


def packet_growing(run):
    """Lines: what a packet costs as tables grow, with random keys; those of a bare lookup are dashed."""
    lines = run["packet"]
    panels_of = [
        ("ipcache", "entries of the ipcache", "no policy, source looked up"),
        ("rules", "rules", "flows that conntrack does not know"),
        ("flows", "live flows", "established flows"),
    ]
    figure, panels = pyplot.subplots(2, 3, figsize=(12, 7.5), sharey="col")
    for row, family in zip(panels, (4, 6)):
        for panel, (name, axis, title) in zip(row, panels_of):
            found = {label: of for (label, of_family), of in tables.series(lines, name).items() if of_family == family}
            for place, (label, of) in enumerate(found.items()):
                draw_series(panel, label, of, place)
            if name == "ipcache":
                draw_hot(panel, lines, family)
            panel.set_xscale("log")
            panel.set_ylim(bottom=0)
            panel.set_xlabel(axis)
            panel.set_title(f"IPv{family}, {title}", fontsize=10)
            if found:
                panel.legend(fontsize=8)
        row[0].set_ylabel("ns a packet, over an empty program")
    return figure


def draw_series(panel, label, by_size, place):
    sizes = sorted(by_size)
    panel.errorbar(
        sizes,
        [tables.over(by_size[size]) for size in sizes],
        [spread(by_size[size]) for size in sizes],
        color=COLOURS[place % len(COLOURS)],
        marker=MARKERS[place % len(MARKERS)],
        linestyle="--" if label.startswith("bare") else "-",
        capsize=2,
        label=label,
    )


def draw_hot(panel, lines, family):
    """An established flow beside a small and a large ipcache: it does not ask it."""
    found = [
        line
        for line in lines
        if not tables.is_random(line)
        and (line["family"], line["policy"], line["flow"]) == (family, "enforce", "established")
        and line["program"] == "from_container"
    ]
    draw_series(panel, "from_container, established, hot", {line["ipcache"]: line for line in found}, 5)


def bars_apart(figure):
    """How far the interval of a figure reaches below and above its median."""
    return [[max(0, figure["median"] - figure["low"])], [max(0, figure["high"] - figure["median"])]]


def horizontal(panel, figures, labels, colours):
    """A bar with its interval for each figure, from the top down."""
    for place, (figure, hue) in enumerate(zip(figures, colours)):
        error = {"elinewidth": 1, "capsize": 3}
        panel.barh(place, figure["median"], 0.7, xerr=bars_apart(figure), color=hue, error_kw=error)
    panel.set_yticks(range(len(labels)), labels)
    panel.invert_yaxis()
    panel.grid(axis="y", visible=False)
    panel.axvline(0, color=BLACK, linewidth=0.8)


def by_subject(figures):
    """A label and a colour for each; the size is told where it makes a difference."""
    sized = len({figure["size"] for figure in figures}) > 1
    labels = [f"{f['subject']}, {tables.grouped(f['size'])}" if sized else f["subject"] for f in figures]
    return labels, [colour(figure["subject"]) for figure in figures]


def groups(figures, wanted):
    """Those whose measure is wanted, by measure, in their own order."""
    found = {}
    for figure in figures:
        if wanted(figure["measure"]):
            found.setdefault(figure["measure"], []).append(figure)
    return found


def panels_across(found, across, height):
    rows = -(-len(found) // across)
    across = min(across, len(found))
    figure, panels = pyplot.subplots(rows, across, figsize=(4.6 * across + 1, height * rows), squeeze=False)
    for panel in panels.flat[len(found) :]:
        panel.set_visible(False)
    return figure, list(panels.flat)


def label_first_column(panels, across):
    """Where all panels have the same names at their left, once is enough."""
    names = [[label.get_text() for label in panel.get_yticklabels()] for panel in panels]
    for place, panel in enumerate(panels):
        if place % across and names[place] == names[place - 1]:
            panel.set_yticklabels([])


def peers_added(run):
    """What each adds to the processor's time for a packet, with the interval of the median."""
    found = groups(run["peers"], lambda measure: measure.startswith("cpu") and measure.endswith("added"))
    figure, panels = panels_across(found, 3, 3.6)
    for panel, (measure, figures) in zip(panels, found.items()):
        horizontal(panel, figures, *by_subject(figures))
        panel.set_title(measure, fontsize=10)
        panel.set_xlabel(f"{figures[0]['unit']} a packet")
    label_first_column(panels[: len(found)], 3)
    return figure


def relative(figures):
    """In % of what it is with nothing there; the interval is its own one."""
    bare = [figure["median"] for figure in figures if figure["subject"] == "nothing"]
    if not bare:
        return []
    percent = 100 / (sum(bare) / len(bare))
    return [
        dict(figure, **{name: figure[name] * percent for name in ("median", "low", "high")})
        for figure in figures
        if figure["subject"] != "nothing"
    ]


def peers_relative(run):
    """Rates, throughput and latency beside a router that has nothing."""
    # The time for a packet has a chart of its own, and rates with a comma are of its other kinds.
    skipped = ("cpu", "against", "packet rate,")
    found = groups(run["peers"], lambda measure: not any(word in measure for word in skipped))
    found = {measure: figures for measure, figures in ((m, relative(f)) for m, f in found.items()) if figures}
    figure, panels = panels_across(found, 3, 3.2)
    for panel, (measure, figures) in zip(panels, found.items()):
        horizontal(panel, figures, *by_subject(figures))
        panel.axvline(100, color=BLACK, linewidth=0.8, linestyle="--")
        better = "less is better" if "latency" in measure else "more is better"
        panel.set_title(measure, fontsize=10)
        panel.set_xlabel(f"% of nothing, {better}")
    label_first_column(panels[: len(found)], 3)
    return figure


def attach(run):
    """Bars: the time for an endpoint, of which the kernel takes a part for the hooks alone."""
    figures = [figure for figure in run["attach"] if figure["measure"] == "attach"]
    kinds = list(dict.fromkeys(figure["subject"].split(", ")[0] for figure in figures))
    figure, panels = pyplot.subplots(1, len(kinds), figsize=(6 * len(kinds), 4.8), squeeze=False)
    for panel, kind in zip(panels.flat, kinds):
        attach_by(panel, kind, [one for one in figures if one["subject"].split(", ")[0] == kind])
    kernel = {"facecolor": ORANGE, "hatch": "//", "edgecolor": "white"}
    parts = [pyplot.Rectangle((0, 0), 1, 1, **kernel), pyplot.Rectangle((0, 0), 1, 1, color=BLUE)]
    above(panels.flat[0], parts, ["the kernel, for the hooks alone", "cilmark"])
    return figure


def attach_by(panel, kind, figures):
    """A kind of hook. Of an endpoint of many only those are shown beside which the kernel was measured."""
    kernel = {one["size"]: one["median"] for one in figures if one["subject"].endswith("kernel alone")}
    rows = [one for one in figures if not one["subject"].endswith("kernel alone") and one["size"] in kernel]
    hows = list(dict.fromkeys(one["subject"] for one in rows))
    rows.sort(key=lambda one: (hows.index(one["subject"]), one["size"]))
    labels = [f"{one['subject'].removeprefix(kind + ', ')}, {tables.grouped(one['size'])}" for one in rows]
    horizontal(panel, rows, labels, [BLUE] * len(rows))
    share = [min(kernel[one["size"]], one["median"]) for one in rows]
    panel.barh(range(len(rows)), share, 0.7, color=ORANGE, hatch="//", edgecolor="white")
    panel.set_title(f"{kind}, by how many there are")
    panel.set_xlabel("ms to attach one endpoint")


# The file's name, the section that it shows, what draws it.
CHARTS = [
    ("packet-hot", "packet", packet_hot),
    ("packet-growing", "packet", packet_growing),
    ("peers-added", "peers", peers_added),
    ("peers-relative", "peers", peers_relative),
    ("attach", "attach", attach),
]


def draw(run, folder):
    """Draws what the run has figures for; the names of the files."""
    for name, section, chart in CHARTS:
        if section in run:
            path = folder / f"{name}.svg"
            save(chart(run), path)
            yield path
