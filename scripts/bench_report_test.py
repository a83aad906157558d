"""Small figures, for what scripts/bench_report.py makes of them: python3 -m unittest -s scripts -p '*_test.py'."""

import unittest

import bench_tables
import bench_targets


def line(ns, **fields):
    hot = {"program": "from_container", "family": 4, "policy": "enforce", "flow": "established", "ipcache": 400}
    return {**hot, "rules": 100, "flows": 1, "ns": ns, "floor_ns": 10.0, "insns": 1500, **fields}


def figure(measure="rate", subject="cilmark", size=10, median=5.0, rounds=3):
    spread = {"low": median - 1, "high": median + 1, "rounds": rounds}
    return {"measure": measure, "subject": subject, "size": size, "unit": "ms", "median": median, **spread}


class Numbers(unittest.TestCase):
    def test_a_number_has_about_three_digits(self):
        texts = [bench_tables.number(value) for value in (0, 0.123, 1.5, 12.34, 123.4, 123456.7, -0.5)]
        self.assertEqual(texts, ["0", "0.12", "1.5", "12.3", "123", "123457", "-0.5"])

    def test_thousands_stand_apart(self):
        self.assertEqual(bench_tables.grouped(1_000_000), "1 000 000")

    def test_over_is_of_medians_where_there_are_any(self):
        self.assertEqual(bench_tables.over(line(30.0)), 20.0)
        self.assertEqual(bench_tables.over(line(30.0, median_ns=35.0)), 25.0)
        self.assertEqual(bench_tables.over(line(30.0, median_ns=35.0, floor_median_ns=12.0)), 23.0)


class Tables(unittest.TestCase):
    def test_a_section_that_did_not_run_says_so(self):
        self.assertEqual(bench_tables.table({}, "soak"), "Not in this run.")
        self.assertEqual(bench_tables.table({"peers": [figure()]}, "peers: latency p50"), "Not in this run.")

    def test_a_name_that_is_no_table_is_an_error(self):
        for name in ("sauk", "packet", "packet cold", "peers hot", ""):
            with self.assertRaisesRegex(ValueError, "no table is called"):
                bench_tables.table({}, name)

    def test_a_measure_is_who_across_how_many(self):
        peers = [figure(size=10), figure(size=10_000, median=7.0), figure(subject="nftables", rounds=1), figure("lost")]
        text = bench_tables.table({"peers": peers}, "peers: rate")
        rows = ["| rate, ms | 10 | 10 000 |", "| --- | --: | --: |"]
        rows += ["| cilmark | 5 (4 to 6) | 7 (6 to 8) |", "| nftables | 5 |  |"]
        self.assertEqual(text.splitlines(), rows)

    def test_a_section_is_all_its_figures(self):
        text = bench_tables.table({"soak": [figure()]}, "soak")
        self.assertIn("| rate | cilmark | 10 | 5 (4 to 6) | ms | 3 |", text)

    def test_hot_keys_are_those_of_the_small_ipcache(self):
        packet = [line(60.0, ipcache=1_000_000), line(30.0), line(90.0, keys="random")]
        text = bench_tables.table({"packet": packet}, "packet hot")
        self.assertIn("| from_container | IPv4 |  | 20 |  |  |  | 1500 |", text)

    def test_what_a_route_costs_stands_below_the_same_flow_without_one(self):
        told = "new, rules name host or world"
        packet = [line(70.0, flow="new"), line(80.0, flow="new", family=6), line(200.0, flow=told, rules=101)]
        text = bench_tables.table({"packet": packet}, "packet host")
        self.assertEqual(text.splitlines()[2:4], ["| new | 60 | 70 |", f"| {told} | 190 |  |"])

    def test_lines_that_differ_in_size_alone_are_a_row(self):
        fields = {"keys": "random", "flow": "none", "policy": "off", "program": "from_netdev"}
        hosts = [line(30.0, ipcache=10, **fields), line(50.0, ipcache=1000, **fields)]
        text = bench_tables.table({"packet": [*hosts, line(99.0)]}, "packet ipcache")
        self.assertEqual(text.splitlines()[0], "| ns over empty | family | 10 | 1 000 |")
        self.assertEqual(text.splitlines()[2:], ["| from_netdev, hosts | IPv4 | 20 | 40 |"])

    def test_new_flows_among_rules_are_not_those_of_conntrack(self):
        packet = [line(99.0, keys="random", flow="new", rules=rules) for rules in (10, 100, 16_000)]
        self.assertIn("| 10 | 16 000 |", bench_tables.table({"packet": packet}, "packet rules"))
        self.assertNotIn("16 000", bench_tables.table({"packet": packet}, "packet new flows"))

    def test_flows_whose_bucket_is_known_have_a_table_of_their_own(self):
        new = {"keys": "random", "flow": "new", "bucket": "full", "flows": 4}
        packet = [line(20.0, bucket="second"), line(30.0), line(99.0, **new)]
        self.assertIn("| from_container | IPv4 |  | 20 |", bench_tables.table({"packet": packet}, "packet hot"))
        for name in ("packet rules", "packet new flows"):
            self.assertNotIn("89", bench_tables.table({"packet": packet}, name))
        rows = bench_tables.table({"packet": packet}, "packet buckets").splitlines()
        self.assertEqual(rows[2:], ["| established | second | from_container | IPv4 | 10 |", "| new | full | from_container | IPv4 | 89 |"])


class Markers(unittest.TestCase):
    def test_what_stands_between_markers_is_replaced_and_nothing_else(self):
        document = "a\n<!-- table: one -->\nold\nolder\n<!-- end -->\nb\n<!-- table: two -->\n<!-- end -->\n"
        filled = bench_tables.filled(document, str.upper)
        self.assertEqual(filled, "a\n<!-- table: one -->\nONE\n<!-- end -->\nb\n<!-- table: two -->\nTWO\n<!-- end -->\n")
        self.assertEqual(bench_tables.filled(filled, str.upper), filled)

    def test_a_backslash_is_no_group(self):
        self.assertIn("\\1", bench_tables.filled("<!-- table: one -->\n<!-- end -->", lambda _: "\\1"))

    def test_a_marker_without_its_end_is_an_error(self):
        for document in ("<!-- table: one -->\n", "<!-- end -->\n", "<!-- table: a -->\n<!-- table: b -->\n<!-- end -->"):
            with self.assertRaisesRegex(ValueError, "no end"):
                bench_tables.filled(document, str.upper)


class Targets(unittest.TestCase):
    def test_the_dearest_program_counts(self):
        packet = [line(30.0, keys="hot"), line(70.0, keys="hot", program="to_netdev")]
        rows = bench_targets.rows({"packet": packet})
        self.assertIn(["IPv4, established flow, hot", "at most 55 ns", "60", "no"], rows)

    def test_what_was_not_measured_has_no_row(self):
        self.assertEqual(bench_targets.rows({}), [["target", "wanted", "measured", "met"]])

    def test_the_worse_of_two_sizes_counts(self):
        measure, subject = "tcp throughput with GRO against nothing", "cilmark"
        peers = [figure(measure, subject=subject, size=size, median=-3.0 + size) for size in (0, 2)]
        rows = bench_targets.rows({"peers": peers})
        self.assertIn(["TCP throughput with GRO, against nothing", "at least -2 %", "-3", "no"], rows)

    def test_what_the_kernel_takes_alone_is_not_our_share(self):
        attach = [
            figure("attach", subject="tcx, off, one process, all till then", size=999, median=24.0),
            figure("attach", subject="tcx, kernel alone", size=1000, median=23.0),
        ]
        rows = bench_targets.rows({"attach": attach})
        self.assertIn("1", [row[2] for row in rows if "tcx, own share" in row[0]])

    def test_a_lost_connection_misses_the_target(self):
        rows = bench_targets.rows({"soak": [figure("lost", median=1.0), figure("rate", median=10_100.0)]})
        self.assertIn(["soak, connections lost", "at most 0", "1", "no"], rows)
        self.assertIn(["soak, connections", "at least 10000 a second", "10100", "yes"], rows)

    def test_each_flood_has_a_target_of_its_own(self):
        ended = [figure("flood, answered flows ended", of, median=n) for of, n in [("first packets", 0), ("handshakes", 3)]]
        rows = bench_targets.rows({"soak": ended})
        self.assertIn(["flood of first packets, answered flows ended", "at most 0", "0", "yes"], rows)
        self.assertIn(["flood of handshakes, answered flows ended", "at most 0", "3", "no"], rows)


if __name__ == "__main__":
    unittest.main()
