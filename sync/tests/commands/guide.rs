//! Man pages and completions: those of `cilmark cluster` are cilmark-sync's.

use std::fs;
use std::process::Command;

use cilmark_sync::service::state::Own;

use super::{ROOT, Run, finish, on_fresh_machine, ready, write_state};
use crate::common::directory::Directory;

fn sync(arguments: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cilmark-sync"));
    finish(command.args(arguments).env_clear())
}

/// What may stand at the end of a line; the first word of the answer is about paths.
fn answer(line: &[&str]) -> Vec<String> {
    let said = sync(&[&["--bpffs", ROOT, "completions", "zsh", "--"], line].concat());
    assert_eq!(said.stderr, "");
    let text = said.ok();
    text.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

#[test]
fn lines_of_clusters_are_completed() {
    on_fresh_machine(async || {
        write_state(vec![ready("edge", 7), ready("core", 1)], Own::default());
        for (line, offered) in [
            (&["cilmark", "cluster", "s"][..], &["values", "status", "sweep"][..]),
            (&["cilmark", "--netns", "x", "cluster", "list", ""], &["values", "edge", "core"]),
            (&["cilmark", "cluster", "sweep", "c"], &["values", "core"]),
            (&["cilmark", "cluster", "list", "--h"], &["values", "--held", "--help"]),
            (&["cilmark", "cluster", "init", "edge", "--etcd", "/e"], &["files"]),
            (&["cilmark", "cluster", "init", "edge", "--remotes", ""], &["directories"]),
            (&["cilmark-sync", "man", "cluster", "l"], &["values", "list", "leave"]),
            (&["cilmark-sync", "comp"], &["values", "completions"]),
        ] {
            let (mut found, mut wanted) = (answer(line), offered.to_vec());
            found[1..].sort();
            wanted[1..].sort();
            assert_eq!(found, wanted, "{line:?}");
        }
    });
}

#[test]
fn on_a_host_of_no_cluster_none_is_offered() {
    on_fresh_machine(async || {
        assert_eq!(answer(&["cilmark", "cluster", "sweep", ""]), ["values"]);
    });
}

#[test]
fn its_scripts_are_for_its_own_name() {
    for shell in ["bash", "zsh", "fish"] {
        let script = sync(&["completions", shell]).ok();
        assert!(
            script.contains(&format!("command cilmark-sync completions {shell} -- ")),
            "{script}"
        );
        assert!(!script.contains("PROGRAM") && !script.contains("FUNCTION"), "{script}");
    }
}

#[test]
fn man_takes_every_page_without_a_warning() {
    let directory = Directory::new();
    let folder = directory.path().join("man8");
    assert_eq!(sync(&["man", "--dir", folder.to_str().unwrap()]).ok(), "");
    let files = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let files: Vec<String> = files.map(|path| path.display().to_string()).collect();
    let has = |name: &str| files.iter().any(|path| path.ends_with(&format!("/{name}")));
    assert!(has("cilmark-sync.8") && has("cilmark-cluster-init.8") && has("cilmark-sync-man.8"));
    assert!(!has("cilmark-cluster.8"), "that is cilmark's");
    let options = ["-man", "-ww", "-z", "-k", "-Tutf8"];
    let groff = finish(Command::new("groff").args(options).args(&files));
    assert_eq!((groff.status, groff.stderr.as_str()), (Some(0), ""));
}
