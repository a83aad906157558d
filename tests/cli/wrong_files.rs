//! Files that are wrong: each is refused with the place, what is wrong and what was expected, and has changed nothing.

use std::fs;

use serde_json::Value;

use crate::common::World;

/// What an endpoint's lines stand behind.
const ENDPOINT: &str = "version = 1\n[[endpoint]]\ndevice = \"red\"\n";

/// Below `version = 1`: the text, where it is wrong, what is told.
const WRONG: &[(&str, &str, &[&str])] = &[
    ("version = 1", "2:1", &["duplicate key"]),
    ("versio = 1", "2:1", &["unknown field `versio`", "`endpoint`"]),
    ("x", "2:2", &["expected"]),
    ("endpoint = 3", "2:12", &["expected a sequence"]),
    ("ipcache_files = \"peers\"", "2:17", &["expected a sequence"]),
    ("ipcache_files = [\"nowhere\"]", "2:18", &["nowhere", "No such file"]),
    ("ipcache_files = [\"lines\"]", "line 2", &["/lines", "10.0.0.300"]),
    ("ipcache_files = [\"twice\"]", "/twice", &["10.0.0.1", "twice"]),
    ("[identities]\nweb = 0x1000000000", "3:7", &["u32"]),
    ("[identities]\nweb = 0", "3:1", &["identity 0 is reserved", "unknown"]),
    ("[identities]\nweb = 2", "3:1", &["identity 2 is reserved", "world"]),
    ("[identities]\nany = 700", "3:1", &["`any` is reserved"]),
    ("[identities]\n\"a b\" = 700", "3:1", &["must begin with a letter a-z"]),
    ("[identities]\na-name-that-is-too-long-for-the-map = 700", "3:1", &["30 is the most"]),
    ("[identities]\na = 700\nb = 700", "", &["identity 700 is called `", "` already"]),
    ("[ipcache]\n10 = 700", "3:1", &["prefix `10`", "10.0.0.1"]),
    ("[ipcache]\n\"10.0.0.0/33\" = 700", "3:1", &["10.0.0.0/33"]),
    ("[ipcache]\n\"10.0.0.1/8\" = 700", "3:1", &["10.0.0.0/8 and 10.0.0.1"]),
    ("[ipcache]\n\"10.0.0.1\" = \"nobody\"", "3:1", &["`nobody`", "cilmark identity list"]),
    ("[ipcache]\n\"10.0.0.1\" = 0", "3:14", &["it means unknown"]),
    ("[ipcache]\n\"10.0.0.1\" = 7\n\"10.0.0.1/32\" = 8", "", &["10.0.0.1 stands at", ", too"]),
    ("[ipcache]\n\"10.9.9.9\" = 7", "", &["10.9.9.9 is an address of endpoint", "identity 300"]),
    ("[rules]\nnobody = []", "3:1", &["`nobody`"]),
    ("[rules]\n700 = \"allow egress to any\"", "3:7", &["expected a sequence"]),
    ("[rules]\n700 = [\"permit egress to any\"]", "3:8", &["permit", "allow"]),
    ("[rules]\n700 = [\"allow egress from any\"]", "3:8", &["egress", "to"]),
    ("[rules]\n700 = [\"allow egress to any tcp/0-70000\"]", "3:8", &["70000"]),
    ("[rules]\n700 = [\"allow egress to any icmp/256\"]", "3:8", &["256"]),
    ("[rules]\n700 = []\n0x2bc = []", "", &["identity 700 stand at"]),
    ("births = \"web\"", "2:10", &["struct Births"]),
    ("[births]\ndefalt = \"web\"", "3:1", &["unknown field `defalt`", "`policy`"]),
    ("[births]\ndefault = 0", "3:11", &["unknown"]),
    ("[births]\ndefault = \"nobody\"", "2:1", &["[births]", "`nobody`"]),
    ("[births]\ndefault = 2", "2:1", &["identity 2 (world) is reserved", "from 128 on"]),
    ("[births]\npolicy = \"on\"", "3:10", &["`on` is not a mode"]),
];

/// Below an endpoint of red.
const WRONG_ENDPOINT: &[(&str, &str, &[&str])] = &[
    ("", "3:10", &["red", "needs an identity: --id"]),
    ("id = 0", "4:6", &["unknown"]),
    ("id = 1", "3:10", &["this host"]),
    ("id = 16777216", "3:10", &["does not fit into a mark"]),
    ("id = \"nobody\"", "3:10", &["`nobody`"]),
    ("id = true", "4:6", &["an identity, a number or a name"]),
    ("id = 7\nrole = \"host\"", "5:8", &["`host` is not a role", "`netdev`"]),
    ("id = 7\npolicy = \"on\"", "5:10", &["`on` is not a", "`enforce`"]),
    ("id = 7\npolicy = { in = \"off\" }", "5:12", &["`ingress`"]),
    ("id = 7\nip = \"10.0.0.1\"", "5:6", &["a sequence"]),
    (
        "id = 7\nbirth = { hook = \"cni\", runtime = \"x\", id_from = \"x\" }",
        "3:10",
        &["`birth`", "no file"],
    ),
    ("id = 7\nip = [\"from_netns\"]", "5:6", &["`from_netns` is neither"]),
    ("id = 7\nlabels = \"app=web\"", "5:10", &["a map"]),
    ("id = 7\nip = [\"10.0.0\"]", "5:6", &["`10.0.0`", "fd00::/64"]),
    (
        "id = 7\nip = [\"127.0.0.1\"]",
        "3:10",
        &["127.0.0.1", "not an address that a host sends from"],
    ),
    ("id = 7\nmac = \"02:00\"", "5:7", &["02:00"]),
    ("id = 7\nhook = \"xdp\"", "5:8", &["`xdp`", "`tcx`"]),
    ("id = 7\nfailsafe = [\"tcp/22\"]", "3:10", &["--failsafe is for the role netdev"]),
    ("id = 7\nadopt = \"soon\"", "5:9", &["soon"]),
    ("id = 7\nendpoint_id = 0", "5:15", &["0"]),
    ("id = 7\nowner = \"\"", "5:9", &["an owner has a name"]),
    ("id = 7\nrules = [\"allow\"]", "5:10", &["rule `allow`"]),
    ("id = 7\nflow_label = 1", "5:14", &["a boolean"]),
    ("id = 7\nworkload-mac = \"any\"", "5:1", &["`workload_mac`"]),
    ("id = 7\nstamp_remote = true", "3:10", &["--stamp-remote is for the role netdev"]),
    ("id = 7\n[[endpoint]]\ndevice = \"red\"", "6:10", &["`red` stands at", "3:10"]),
    ("id = 7\n[[endpoint]]\ndevice = \"crimson\"\nid = 8", "6:10", &["is the device red", "3:10"]),
    ("id = 7\n[[endpoint]]\ndevice = \"a*\"\nendpoint_id = 7", "6:10", &["several devices"]),
    ("id = 7\n[[endpoint]]\nid = 8", "5:1", &["missing field `device`"]),
    ("id = 7\n[[endpoint]]\ndevice = \"\"", "6:10", &["no name"]),
];

#[test]
fn each_wrong_file_is_refused_by_its_place_and_changes_nothing() {
    let Some(world) = World::new() else { return };
    world.sh("mount -t tmpfs etc /etc && mkdir /etc/cilmark");
    fs::write("/etc/cilmark/lines", "10.0.0.1 7\n10.0.0.300 7\n").expect("write");
    fs::write("/etc/cilmark/twice", "10.0.0.1 7\n10.0.0.1 8\n").expect("write");
    world.veth("red");
    world.sh("ip link property add dev red altname crimson");
    world.veth("blue");
    world.cilmark_ok("attach blue --id 300 --ip 10.9.9.9");
    let state = || -> (Vec<String>, Value, Value) {
        let mut status = world.cilmark_json("status");
        status[0]["packets"] = Value::Null;
        (world.pins(), status, world.cilmark_json("ipcache list"))
    };
    let (before, mut wrong) = (state(), Vec::new());
    let below = |head: &'static str| {
        move |(text, place, told): &(&str, &'static str, &'static [&'static str])| {
            (format!("{head}{text}\n"), *place, *told)
        }
    };
    let all = WRONG.iter().map(below("version = 1\n"));
    let all = all.chain(WRONG_ENDPOINT.iter().map(below(ENDPOINT)));
    for (text, place, told) in all {
        fs::write("/etc/cilmark/cilmark.toml", &text).expect("write");
        let run = world.cilmark("apply --yes --prune");
        let said = &run.stderr;
        let is_refused = run.status == Some(1) && run.stdout.is_empty();
        let is_placed = said.starts_with("cilmark: /etc/cilmark/") && said.contains(place);
        if !(is_refused && is_placed && told.iter().all(|part| said.contains(part))) {
            wrong.push(format!("{text}{place} {told:?}\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(state(), before);
}

#[test]
fn what_can_not_be_read_at_all_is_named() {
    let Some(world) = World::new() else { return };
    world.sh("mount -t tmpfs etc /etc && mkdir -p /etc/cilmark/empty");
    fs::write("/etc/cilmark/binary.toml", b"version = 1\n\xff\xfe").expect("write");
    for (command, status, told) in [
        ("apply", 1, "read /etc/cilmark/cilmark.toml: No such file"),
        ("apply /etc/cilmark/empty", 1, "/etc/cilmark/empty has no file that is called *.toml"),
        ("apply /etc/cilmark/binary.toml", 1, "/etc/cilmark/binary.toml:2: this is no UTF-8"),
        ("apply /etc/cilmark/empty/below", 1, "read /etc/cilmark/empty/below"),
        ("apply --confirm 0 x", 2, "nobody can confirm in no time"),
        ("apply --confirm 60s --boot", 2, "cannot be used with"),
        ("apply --dry-run --boot", 2, "cannot be used with"),
        ("apply one two", 2, "unexpected argument 'two'"),
        ("export --origin cluster", 2, "[possible values: file, command, hook]"),
        ("export --all --origin file", 2, "cannot be used with"),
        ("confirm /etc/cilmark/cilmark.toml", 1, "nothing is attached"),
        ("--netns nowhere apply", 1, "nowhere"),
    ] {
        world.cilmark(command).fails(status, &[told]);
    }
    assert!(world.pins().is_empty(), "{:?}", world.pins());
}
