"""Small runs, for what scripts/bench-against makes of them."""

import unittest

import bench_compare


def line(over, **fields):
    usual = {"program": "from_container", "family": 4, "policy": "enforce", "flow": "established", "keys": "hot"}
    rest = {"ipcache": 400, "prefixes": False, "rules": 100, "flows": 1}
    return {**usual, **rest, "median_ns": 15.0 + over, "floor_ns": 14.0, "floor_median_ns": 15.0, **fields}


class Compared(unittest.TestCase):
    def test_a_row_has_the_pairs_differences_and_ratios(self):
        pairs = [([line(20)], [line(10)]), ([line(40)], [line(10)]), ([line(30)], [line(24)])]
        [row] = bench_compare.compared(pairs)
        self.assertEqual((row["old"], row["new"]), ([20, 40, 30], [10, 10, 24]))
        self.assertEqual(row["difference"], {"median": -10, "low": -30, "high": -6})
        self.assertEqual(row["ratio"], {"median": 0.5, "low": 0.25, "high": 0.8})

    def test_lines_that_differ_in_anything_but_figures_are_others(self):
        old = [line(20), line(30, flows=10_000), line(40, keys="random")]
        new = [line(40, keys="random"), line(30, flows=10_000), line(20)]
        rows = bench_compare.compared([(old, new)])
        self.assertEqual([row["ratio"]["median"] for row in rows], [1, 1, 1])

    def test_a_line_of_one_version_is_named_as_such(self):
        pairs = [([line(20), line(20, policy="off")], [line(20), line(20, bucket="full")])]
        self.assertEqual(len(bench_compare.compared(pairs)), 1)
        told = [text for text in bench_compare.report(pairs) if text.startswith("only")]
        self.assertEqual(len(told), 2)
        self.assertIn("only in the old version: from_container, IPv4, off", told[0])
        self.assertIn("only in the new version: from_container, IPv4, enforce, established, hot, full", told[1])

    def test_what_costs_nothing_is_no_division_by_zero(self):
        [row] = bench_compare.compared([([line(0)], [line(1)])])
        self.assertEqual(row["ratio"]["median"], 10)


class Summary(unittest.TestCase):
    def test_a_kind_has_its_mean_and_its_worst_line(self):
        old = [line(20), line(20, family=6), line(20, policy="audit"), line(20, ipcache=1_000_000)]
        new = [line(10), line(40, family=6), line(99, policy="audit"), line(99, ipcache=1_000_000)]
        [kind] = bench_compare.summary(bench_compare.compared([(old, new)]))
        self.assertEqual((kind["kind"], kind["lines"]), ("established, hot", 2))
        self.assertAlmostEqual(kind["ratio"]["median"], 1)
        self.assertEqual(kind["worst"]["family"], 6)

    def test_a_bare_lookup_is_no_program(self):
        of = {"flow": "new", "keys": "random", "flows": 65_536}
        bare = line(20, **of, program="bare LRU update")
        [kind] = bench_compare.summary(bench_compare.compared([([bare, line(20, **of)], [bare, line(10, **of)])]))
        self.assertEqual((kind["lines"], kind["ratio"]["median"]), (1, 0.5))

    def test_a_report_without_any_kind_has_the_rows(self):
        text = list(bench_compare.report([([line(20, policy="off")], [line(10, policy="off")])]))
        self.assertTrue(any("0.50 (0.50 to 0.50)" in one for one in text))


if __name__ == "__main__":
    unittest.main()
