//! The help, word by word. `SNAPSHOTS=overwrite cargo test help` takes what is printed now.

use std::path::Path;

use snapbox::{Data, assert_data_eq};

use crate::common::process::{Run, cilmark};

/// Compares with the file of this name in tests/cli/snapshots.
pub fn assert_snapshot(actual: String, name: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/snapshots");
    let expected = Data::read_from(&directory.join(name), None).raw();
    assert_data_eq!(actual, expected);
}

const COMMANDS: [&str; 20] = [
    "attach",
    "detach",
    "status",
    "ipcache",
    "identity",
    "policy",
    "confirm",
    "apply",
    "export",
    "conntrack",
    "metrics",
    "monitor",
    "explain",
    "doctor",
    "mark",
    "cni",
    "oci",
    "hook",
    "man",
    "completions",
];

fn help(arguments: &[&str]) -> String {
    let run: Run = cilmark(arguments).output().expect("run cilmark").into();
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "help is data");
    run.stdout
}

#[test]
fn the_first_help_page_lists_every_command() {
    let page = help(&["--help"]);
    for command in COMMANDS {
        assert!(page.contains(&format!("  {command} ")), "no {command}");
    }
    assert_snapshot(page, "cilmark.txt");
}

#[test]
fn every_command_has_its_help() {
    for command in COMMANDS {
        assert_snapshot(help(&[command, "--help"]), &format!("{command}.txt"));
    }
}

#[test]
fn every_subcommand_has_its_help() {
    for (command, subcommands) in [
        ("ipcache", &["set", "get", "del", "list", "load", "flush"][..]),
        ("identity", &["set", "list", "del"]),
        ("policy", &["add", "del", "list", "flush"]),
        ("conntrack", &["list", "flush"]),
        ("mark", &["encode", "decode"]),
        ("cni", &["install"]),
        ("oci", &["createRuntime", "poststop", "runtime", "install"]),
        ("hook", &["libvirt", "lxc"]),
    ] {
        let pages: Vec<String> =
            subcommands.iter().map(|subcommand| help(&[command, subcommand, "--help"])).collect();
        assert_snapshot(pages.join("\n"), &format!("{command}-subcommands.txt"));
    }
}

#[test]
fn the_version_is_that_of_the_crate() {
    assert_eq!(help(&["--version"]), format!("cilmark {}\n", env!("CARGO_PKG_VERSION")));
}
