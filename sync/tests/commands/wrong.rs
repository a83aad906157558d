//! Wrong arguments: each is refused in words.

use std::path::Path;

use super::{Run, cluster};

fn run(arguments: &str) -> Run {
    cluster(Path::new("/nowhere/cluster.toml"), arguments)
}

#[test]
fn usage_errors_have_status_2_and_say_what_is_wrong() {
    for (arguments, word) in [
        ("", "Usage:"),
        ("stat", "unrecognized subcommand"),
        ("init", "<NAME>"),
        ("init edge", "--id"),
        ("init edge --id 7", "--etcd"),
        ("init edge --id seven --etcd f", "invalid digit"),
        ("init edge --id 70000 --etcd f", "not in 0..=65535"),
        ("init edge other --id 7 --etcd f", "other"),
        ("status edge", "edge"),
        ("list edge other", "other"),
        ("list --stale --held", "--held"),
        ("doctor edge other", "other"),
        ("leave edge", "edge"),
        ("sweep", "<CLUSTER>"),
        ("status --bpffs relative", "not an absolute path"),
        ("status --netns x", "--netns"),
        ("--listen 80 status", "--listen"),
    ] {
        run(arguments).fails(2, &[word]);
    }
}

#[test]
fn what_cannot_be_a_cluster_or_a_host_is_refused_before_anything_is_asked() {
    for (arguments, word) in [
        ("init Edge --id 7 --etcd f", "`Edge` is no name of a cluster"),
        ("init default --id 7 --etcd f", "take another name"),
        ("init edge --id 0 --etcd f", "--id is a number from 1 to 255"),
        ("init edge --id 256 --etcd f", "--id is a number from 1 to 255"),
        ("init edge --id 512 --max-clusters 511 --etcd f", "--id is a number from 1 to 511"),
        ("init edge --id 7 --max-clusters 300 --etcd f", "--max-clusters is 255 or 511"),
        ("init edge --id 7 --node a/b --etcd f", "`a/b` is no name of a host"),
        ("init edge --id 7 --node localhost --etcd f", "a name of its own"),
        ("init edge --id 7 --node h1 --etcd /nowhere/f", "/nowhere/f"),
    ] {
        run(arguments).fails(1, &[word]);
    }
}

#[test]
fn on_a_host_of_no_cluster_commands_say_so() {
    for arguments in ["status", "list", "list --stale", "doctor", "leave"] {
        run(arguments).fails(1, &["this host is in no cluster", "cilmark cluster init"]);
    }
}

#[test]
fn each_command_has_help() {
    for command in ["init", "status", "list", "doctor", "leave", "sweep"] {
        let help = run(&format!("{command} --help")).ok();
        assert!(help.contains("Usage:") && help.contains("--config"), "{help}");
        assert!(run("--help").ok().contains(&format!("  {command} ")), "{command}");
    }
}
