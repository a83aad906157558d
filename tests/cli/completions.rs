//! Completion in real shells: what bash and zsh make of a line on a terminal, and what fish offers.

use std::path::Path;
use std::process::Command;

use crate::common::World;
use crate::common::process::{Run, cilmark, text};

/// With a device, `id:1`, of the identity web, and one with a name that no shell takes as it stands.
fn world() -> Option<World> {
    let world = World::new()?;
    world.sh("mount -t tmpfs none /mnt && ip netns add other && touch '/mnt/a file.toml'");
    world.veth("veth-web");
    world.sh(r#"ip link add 'o'\''d$x"' type veth peer name peer"#);
    world.cilmark_ok("identity set 1234 web");
    world.cilmark_ok("attach veth-web --id web --ip 192.0.2.10");
    let odd = ["attach", "o'd$x\"", "--role", "container", "--id", "7777", "--owner", "a b"];
    let run: Run = cilmark(&odd).output().expect("run cilmark").into();
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    world.cilmark_ok("policy add veth-web allow ingress from any tcp/443 deny egress to web");
    Some(world)
}

/// A shell finds the binary under test.
fn shell(program: &str) -> Command {
    let folder = Path::new(env!("CARGO_BIN_EXE_cilmark")).parent().expect("its folder");
    let path = format!("{}:/usr/bin:/bin", folder.display());
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", path)
        .env("TERM", "dumb")
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", "/mnt");
    command
}

/// What becomes of lines that are typed.
fn typed(program: &str, setup: &str, lines: &[(&str, &str)]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/completions/keys.zsh");
    let mut keys = shell("timeout");
    keys.args(["60", "zsh", "-f"]).arg(script).args([program, setup]);
    let output = keys.args(lines.iter().map(|(line, _)| line)).output().expect("run zsh");
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    let said: Vec<&str> = said.lines().collect();
    let expected: Vec<&str> = lines.iter().map(|(_, words)| *words).collect();
    assert_eq!(said, expected, "{errors}");
}

const LINES: [(&str, &str); 9] = [
    (r"cilmark detach o\t", r#"<detach><o'd$x">"#),
    (r"cilmark status veth-w\t", "<status><veth-web>"),
    (r"cilmark policy list @w\t", "<policy><list><@web>"),
    (
        r"cilmark policy add id:1 allow in\tfrom an\ttcp/80",
        "<policy><add><id:1><allow><ingress><from><any><tcp/80>",
    ),
    (r"cilmark --netns=ot\tstat\t", "<--netns=other><status>"),
    (r"cilmark detach --owner a\t", "<detach><--owner><a b>"),
    (r"cilmark apply /mnt/a\t--yes", "<apply></mnt/a file.toml><--yes>"),
    (
        r"cilmark policy add veth-web 'allow ingress f\t",
        "<policy><add><veth-web><allow ingress from>",
    ),
    (r"cilmark policy del veth-web d\te\t", "<policy><del><veth-web><deny><egress>"),
];

/// What a shell is told; the first line is about paths.
fn answer(line: &[&str]) -> Vec<String> {
    let run: Run =
        cilmark(&[&["completions", "zsh", "--"], line].concat()).output().unwrap().into();
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{line:?}");
    run.stdout.lines().skip(1).map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

const SHELLS: [(&str, &str); 2] = [
    ("bash --norc --noprofile -i", "source <(command cilmark completions bash)"),
    (
        "zsh -f -i",
        "autoload -U compinit; compinit -u -D; source <(command cilmark completions zsh)",
    ),
];

#[test]
fn bash_and_zsh_complete_lines_that_are_typed() {
    let Some(_world) = world() else { return };
    for (program, setup) in SHELLS {
        typed(program, setup, &LINES);
    }
}

#[test]
fn fish_offers_what_there_is() {
    let Some(_world) = world() else { return };
    let ask = "cilmark completions fish | source; for line in $argv; complete -C $line; echo; end";
    let lines = [
        "cilmark detach o",
        "cilmark policy list '@w",
        "cilmark apply /mnt/a",
        "cilmark --netns=o",
    ];
    let output = shell("fish").args(["-N", "-c", ask]).args(lines).output().expect("run fish");
    let errors = text(&output.stderr);
    let said = text(&output.stdout);
    let expected =
        "o'd$x\"\tendpoint 2, 7777\n\n@web\t1234\n\n/mnt/a file.toml\n\n--netns=other\n\n";
    assert_eq!((said.as_str(), errors.as_str()), (expected, ""));
}

#[test]
fn what_is_there_is_offered_where_it_is_asked_for() {
    let Some(world) = world() else { return };
    let odd = "o'd$x\"";
    for (line, offered) in [
        (&["attach", ""][..], &["lo", "peer", odd, "veth-web-peer", "veth-web"][..]),
        (&["detach", ""], &["veth-web", odd, "id:1", "id:2"]),
        (&["detach", "veth-web", "id:"], &["id:1", "id:2"]),
        (&["detach", "--owner", ""], &["a b"]),
        (&["policy", "list", ""], &["veth-web", odd, "id:1", "id:2", "@web", "@1234", "@7777"]),
        (
            &["policy", "add", "veth-web", "allow", "ingress", "from", "w"],
            &["web", "world", "world-ipv4", "world-ipv6"],
        ),
        (&["policy", "add", "veth-web", "--yes", "allow", "egress", ""], &["to"]),
        (&["policy", "add", "veth-web", "allow egress to any tcp/1", ""], &["allow", "deny"]),
        (&["policy", "del", "veth-web", "allow ingress from "], &["allow ingress from any"]),
        (&["attach", "x", "--rule", "deny", "ingress", "from", "a"], &["any"]),
        (&["identity", "del", ""], &["web"]),
        (&["explain", "id:1", "to", "--dst", ""], &["192.0.2.10"]),
        (&["--netns", "o"], &["other"]),
        (&["--netns", "other", "attach", ""], &["lo"]),
        (&["--netns", "other", "detach", ""], &[]),
        (&["--netns", "nowhere", "attach", ""], &[]),
        (&["--bpffs", "/sys/fs/bpf/none", "detach", ""], &[]),
        (&["monitor", "--type", "drop,tr"], &["drop,trace"]),
        (&["man", "policy", "l"], &["list"]),
        (&["pol"], &["policy"]),
        (&["policy", "list", "--"], &["--bpffs", "--netns", "--json", "--verbose", "--help"]),
    ] {
        let words = [&["cilmark"], line].concat();
        let (mut found, mut wanted) = (answer(&words), offered.to_vec());
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted, "{line:?}");
    }
    world.cilmark_ok("attach veth-web-peer --role netdev");
    assert!(answer(&["cilmark", "confirm", "h"]).contains(&"host".to_owned()));
}

#[test]
fn names_that_a_terminal_does_not_show_are_not_offered() {
    let Some(world) = world() else { return };
    world.sh("ip link add \"$(printf 'a\\033[31m')\" type veth peer name \"$(printf 'b\\377')\"");
    assert_eq!(world.sh("ls /sys/class/net | wc -l").trim(), "7");
    assert_eq!(answer(&["cilmark", "attach", ""]).len(), 5);
}

#[test]
fn who_may_not_look_is_offered_nothing_and_told_nothing() {
    let Some(world) = world() else { return };
    for line in
        ["detach ", "policy list @", "policy del id:1 ", "detach --owner ", "--netns other attach "]
    {
        let typed = format!("cilmark {line}");
        let arguments = ["completions", "bash", "--", &typed, ""];
        let run: Run = world.cilmark_of_a_user(&arguments).output().expect("run cilmark").into();
        let said = (run.status, run.stdout.as_str(), run.stderr.as_str());
        assert_eq!(said, (Some(0), "values\n", ""), "{line}");
    }
}

#[test]
fn whatever_a_name_has_in_it_stays_one_word_that_nothing_runs() {
    let Some(world) = World::new() else { return };
    world.sh("mount -t tmpfs none /mnt");
    let odd = [
        "qa$(id>x)",
        "qb`id>x`",
        "qc;id",
        "qd!id",
        "qe{a,b}",
        "qf*",
        "qg\\b",
        "qh\\",
        "qi(b",
        "qj&",
        "qk|b",
        "ql[x]",
        "qm#x~",
        "qn=~x",
        "qo^x^y",
        "qp'b",
        "qr\"b",
        "qs,$HOME",
    ];
    for name in odd {
        let mut add = Command::new("ip");
        let output = add.args(["link", "add", name, "type", "veth"]).output().expect("run ip");
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
    }
    let lines: Vec<(String, String)> = odd
        .iter()
        .map(|name| {
            (format!("cd /mnt; cilmark attach {}\\t", &name[..2]), format!("<attach><{name}>"))
        })
        .collect();
    let lines: Vec<(&str, &str)> =
        lines.iter().map(|(line, words)| (line.as_str(), words.as_str())).collect();
    for (program, setup) in SHELLS {
        typed(program, setup, &lines);
    }
    assert_eq!(world.sh("ls /mnt"), "");
}
