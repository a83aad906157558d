"""Canned guests, for what scripts/test-vm makes of them: python3 -m unittest -s scripts -p '*_test.py'."""

import unittest

import vm_results

PASSED = ["| test result: ok. 1 passed; 0 failed; 0 ignored;"]


def run(names, *lines, why="the guest ended too early"):
    run = vm_results.Run("6.1", names)
    for line in ["KERNEL 6.1.0-56-amd64 tcx=no btf=yes", *lines]:
        run.read(line)
    run.end(why, ["[ 1.0] Kernel panic - not syncing: oops"])
    return run


def table(*runs):
    return "\n".join(vm_results.report(runs))


class Judgement(unittest.TestCase):
    def test_all_ok_is_good(self):
        names = ["programs::a", "e2e::b"]
        lines = ["BEGIN programs::a", "BEGIN e2e::b", *PASSED, "END e2e::b 0 3", *PASSED, "END programs::a 0 4", "DONE"]
        good = run(names, *lines)
        self.assertTrue(vm_results.good([good]))
        self.assertIn("6.1: 6.1.0-56-amd64, no TCX, BTF", table(good))
        self.assertRegex(table(good), r"6\.1 +programs +1 +0 +0\n6\.1 +e2e +1 +0 +0\n")

    def test_a_failure_is_told_with_its_output(self):
        lines = ["BEGIN e2e::a", *PASSED, "END e2e::a 0 1", "BEGIN e2e::b", "| left != right", "END e2e::b 101 1", "DONE"]
        bad = run(["e2e::a", "e2e::b"], *lines)
        self.assertFalse(vm_results.good([bad]))
        self.assertIn("failed on 6.1: e2e::b: exit status 101\n    left != right", table(bad))

    def test_one_bad_kernel_among_good_ones_is_bad(self):
        good = run(["cli::a"], "BEGIN cli::a", *PASSED, "END cli::a 0 1", "DONE")
        bad = run(["cli::a"], "BEGIN cli::a", "END cli::a 101 1", "DONE")
        self.assertFalse(vm_results.good([good, bad]))

    def test_a_panic_names_the_tests_that_had_begun_and_shows_the_console(self):
        bad = run(["cli::a", "cli::b", "cli::c"], "BEGIN cli::a", *PASSED, "END cli::a 0 1", "BEGIN cli::b")
        self.assertFalse(vm_results.good([bad]))
        told = "the guest ended too early, 2 tests without a result; begun, not ended: cli::b\n    [ 1.0] Kernel panic"
        self.assertIn(told, table(bad))

    def test_a_guest_that_hangs_after_its_last_test_is_bad(self):
        bad = run(["cli::a"], "BEGIN cli::a", *PASSED, "END cli::a 0 1", why="the guest had to be ended: silent for 9 s")
        self.assertIn("the guest had to be ended: silent for 9 s, 0 tests without a result", table(bad))

    def test_a_test_that_had_to_be_ended_says_so(self):
        bad = run(["cli::a"], "BEGIN cli::a", "END cli::a 124 900", "DONE")
        self.assertIn("cli::a: did not end within 900 s", table(bad))

    def test_a_skipped_test_has_not_passed(self):
        lines = ["BEGIN cli::a", "| test cli::a ... SKIPPED cli::a: the kernel has no TCX", *PASSED, "END cli::a 0 1"]
        skipped = run(["cli::a", "cli::b"], *lines, "BEGIN cli::b", *PASSED, "END cli::b 0 1", "DONE")
        self.assertTrue(vm_results.good([skipped]))
        self.assertRegex(table(skipped), r"6\.1 +cli +1 +0 +1\n")
        self.assertIn("skipped on 6.1: cli::a: the kernel has no TCX", table(skipped))

    def test_a_test_that_fails_after_it_said_skipped_has_failed(self):
        bad = run(["cli::a"], "BEGIN cli::a", "| SKIPPED cli::a: no TCX", "END cli::a 101 1", "DONE")
        self.assertFalse(vm_results.good([bad]))

    def test_no_test_at_all_is_bad(self):
        self.assertFalse(vm_results.good([]))
        self.assertIn("nothing ran", table(run([], "DONE")))

    def test_a_name_that_no_test_has_is_no_success(self):
        empty = "| test result: ok. 0 passed; 0 failed; 0 ignored;"
        bad = run(["cli::a"], "BEGIN cli::a", empty, "END cli::a 0 1", "DONE")
        self.assertIn("cli::a: did not run", table(bad))


if __name__ == "__main__":
    unittest.main()
