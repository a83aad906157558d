"""What scripts/check-house finds, and what it lets pass."""

import importlib.machinery
import importlib.util
import pathlib
import unittest

PATH = str(pathlib.Path(__file__).parent / "check-house")
LOADER = importlib.machinery.SourceFileLoader("check_house", PATH)
HOUSE = importlib.util.module_from_spec(importlib.util.spec_from_loader("check_house", LOADER))
LOADER.exec_module(HOUSE)


class CheckHouse(unittest.TestCase):
    def test_calls_go_down_only(self):
        for name, text, finds in [
            ("ops/attach.rs", "use crate::state::pin::Root;", False),
            ("cli/attach.rs", "use crate::ops::attach;", False),
            ("model/rule.rs", "use crate::kernel::sys;", True),
            ("state/maps.rs", "use crate::{ops, kernel};", True),
            ("ops/rules.rs", "crate::cli::ask()", True),
            ("kernel/sys.rs", "/// As [`crate::state::maps`] has it.", False),
        ]:
            self.assertEqual(bool(list(HOUSE.complaints(name, text))), finds, text)

    def test_no_files_name_each_other_in_a_circle(self):
        one = ("state/pin.rs", "use crate::state::{layout, maps};")
        two = ("state/layout.rs", "use crate::state::nics::NICS;")
        back = ("state/nics.rs", "use crate::state::pin::Root;")
        self.assertEqual(HOUSE.circle([one, two, ("state/nics.rs", "")]), [])
        self.assertEqual(HOUSE.circle([one, two, back]), ["state::layout", "state::nics", "state::pin"])
        siblings = [("ops/a.rs", "use super::b::{self, C};"), ("ops/b.rs", "use crate::ops::{a};")]
        self.assertEqual(HOUSE.circle(siblings), ["ops::a", "ops::b"])
        parts = [("state/nics.rs", "use crate::state::nics::a;"), ("state/nics/a.rs", "use crate::state::nics::B;")]
        self.assertEqual(HOUSE.circle(parts), [])

    def test_some_things_are_done_in_one_place_only(self):
        for name, text, finds in [
            ("kernel/sys.rs", "unsafe { f() }", False),
            ("state/maps.rs", "unsafe { f() }", True),
            ("ops/rules.rs", 'println!("done")', True),
            ("output.rs", "io::stdout()", False),
            ("program/load.rs", "io::stdin()", True),
            ("model/rule.rs", "use clap::ValueEnum;", True),
            ("program/load.rs", 'warn!("unsafe")', False),
            ("cli/policy.rs", "use clap::Subcommand;", False),
            ("ops/rules.rs", "#[derive(clap::Args)]", True),
        ]:
            self.assertEqual(bool(list(HOUSE.complaints(name, text))), finds, text)

    def test_a_command_is_short(self):
        for name, lines, finds in [
            ("cli/policy.rs", 200, False),
            ("cli/policy.rs", 201, True),
            ("ops/rules.rs", 300, False),
        ]:
            self.assertEqual(bool(list(HOUSE.complaints(name, "\n" * lines))), finds, f"{name}: {lines}")

    def test_sync_calls_operations_alone_and_its_formats_nobody(self):
        for name, text, finds in [
            ("read/writer.rs", "use cilmark::ops::cluster::lines::Lines;", False),
            ("read/writer.rs", "use cilmark::state::pin::Root;", False),
            ("read/writer.rs", "use cilmark::state::ipcache::Ipcache;", True),
            ("publish.rs", "use cilmark::kernel::netns;", True),
            ("cilium/pair.rs", "use cilmark::model::identity::Identity;", False),
            ("cilium/pair.rs", "use std::fs;", True),
            ("cilium.rs", "tokio::time::sleep(a)", True),
            ("cli/list.rs", 'println!("a")', True),
        ]:
            self.assertEqual(bool(list(HOUSE.sync_complaints(name, text))), finds, text)


if __name__ == "__main__":
    unittest.main()
