use super::*;
use crate::model::identity::{Identity, Names};

fn source(name: &str, text: &str) -> Source {
    Source { name: name.to_owned(), text: text.to_owned() }
}

fn wanted(texts: &[&str]) -> anyhow::Result<Wanted> {
    let names = ["a.toml", "b.toml"];
    let sources: Vec<Source> =
        texts.iter().zip(names).map(|(text, name)| source(name, text)).collect();
    Wanted::of(&Documents::parse(&sources)?, &Names::default(), &[])
}

fn error(texts: &[&str]) -> String {
    format!("{:#}", wanted(texts).expect_err("an error"))
}

const EXAMPLE: &str = r#"version = 1

[identities]
web = 1234
db = 5678

[ipcache]
"198.51.100.7" = "db"
"203.0.113.0/24" = 300

[rules]
web = ["allow ingress from any tcp/80", "allow egress to db tcp/5432"]

[[endpoint]]
device = "ve-*"
id = "web"
policy = "enforce"

[[endpoint]]
device = "eth0"
policy = { ingress = "enforce", egress = "audit" }
rules = ["allow ingress from any tcp/443"]
failsafe = ["tcp/22"]
"#;

#[test]
fn a_file_is_read_with_its_names() {
    let wanted = wanted(&[EXAMPLE]).unwrap();
    assert_eq!(wanted.names[&Identity(1234)], "web");
    assert_eq!(wanted.lines[&"198.51.100.7/32".parse().unwrap()], Identity(5678));
    assert_eq!(wanted.rules[&Identity(1234)][1].peer, Identity(5678));
    assert_eq!(wanted.of_device("ve-x").unwrap().unwrap().spec.device, "ve-*");
    assert_eq!(wanted.of_device("eth0").unwrap().unwrap().rules.as_ref().unwrap().len(), 1);
    assert!(wanted.of_device("eth1").unwrap().is_none());
}

#[test]
fn files_add_up_and_what_stands_twice_is_named_with_both_places() {
    let other = "version = 1\n[identities]\nlb = 900\n[ipcache]\n\"10.0.0.1\" = \"web\"\n";
    assert_eq!(wanted(&[EXAMPLE, other]).unwrap().names.len(), 3);
    for (text, wanted) in [
        ("[identities]\nweb = 700", "b.toml:3:1: identity `web` stands at a.toml:4:1, too"),
        ("[identities]\nlb = 1234", "identity 1234 is called"),
        (
            "[ipcache]\n\"198.51.100.7/32\" = 7",
            "b.toml:3:1: prefix 198.51.100.7 stands at a.toml:8:1, too",
        ),
        ("[rules]\n1234 = []", "rules of identity 1234 stand at"),
        (
            "[[endpoint]]\ndevice = \"eth0\"",
            "b.toml:3:10: the endpoint of `eth0` stands at a.toml:20:10, too",
        ),
    ] {
        let message = error(&[EXAMPLE, &format!("version = 1\n{text}\n")]);
        assert!(message.contains(wanted), "{message}");
    }
}

#[test]
fn a_mistake_is_told_by_line_and_column_with_what_was_expected() {
    for (text, place, wanted) in [
        ("", "a.toml:1:1", "missing field `version`"),
        ("version = 2", "a.toml:1:11", "this cilmark reads version 1"),
        ("version = 1\nversion = 1", "a.toml:2:1", "duplicate key"),
        ("version = 1\n[identities]\nweb = \"x\"", "a.toml:3:7", "expected u32"),
        ("version = 1\n[identities]\nWeb = 700", "a.toml:3:1", "must begin with a letter a-z"),
        ("version = 1\n[identities]\nhost = 700", "a.toml:3:1", "reserved"),
        ("version = 1\n[identity]\nweb = 7", "a.toml:2:2", "expected one of"),
        ("version = 1\n[ipcache]\n\"10.0.0.300\" = 7", "a.toml:3:1", "10.0.0.300"),
        ("version = 1\n[ipcache]\n\"10.0.0.1/8\" = 7", "a.toml:3:1", "beyond its length"),
        ("version = 1\n[ipcache]\n\"10.0.0.1\" = \"nix\"", "a.toml:3:1", "`nix`"),
        ("version = 1\n[rules]\n7 = [\"allow all\"]", "a.toml:3:6", "allow all"),
        ("version = 1\n[rules]\n7 = [\"allow ingress from nix\"]", "a.toml:3:6", "`nix`"),
        ("version = 1\n[[endpoint]]\nid = 7", "a.toml:2:1", "missing field `device`"),
        ("version = 1\n[[endpoint]]\ndevice = \"e\"\npolcy = 1", "a.toml:4:1", "`policy`"),
        ("version = 1\n[[endpoint]]\ndevice = \"e\"\npolicy = \"x\"", "a.toml:4:10", "`audit`"),
        ("version = 1\n[[endpoint]]\ndevice = \"e\"\nid = -1", "a.toml:4:6", "-1"),
        ("version = 1\n[[endpoint]]\ndevice = \"e\"\nid = \"nix\"", "a.toml:3:10", "`nix`"),
        ("version = 1\n[[endpoint]]\ndevice = \"e\"\nip = [\"1.2.3\"]", "a.toml:4:6", "1.2.3"),
        (
            "version = 1\n[[endpoint]]\ndevice = \"e*\"\nendpoint_id = 7",
            "a.toml:3:10",
            "endpoint_id",
        ),
        (
            "version = 1\n[[endpoint]]\ndevice = \"e\"\nrules = [\n  \"deny all\",\n]",
            "a.toml:5:3",
            "deny all",
        ),
    ] {
        let message = error(&[text]);
        assert!(message.starts_with(&format!("{place}: ")), "{text}\n{message}");
        assert!(message.contains(wanted), "{text}\n{message}");
    }
}

#[test]
fn two_patterns_for_one_device_are_an_error_and_a_name_comes_before() {
    let text = "version = 1\n[[endpoint]]\ndevice = \"ve-*\"\nid = 7\n[[endpoint]]\ndevice = \"*-a\"\nid = 8\n\
                [[endpoint]]\ndevice = \"ve-x-a\"\nid = 9\n";
    let wanted = wanted(&[text]).unwrap();
    assert_eq!(wanted.of_device("ve-b").unwrap().unwrap().spec.device, "ve-*");
    assert_eq!(wanted.of_device("ve-x-a").unwrap().unwrap().spec.device, "ve-x-a");
    let message = wanted.of_device("ve-a").unwrap_err().to_string();
    assert!(message.contains("a.toml:3:10") && message.contains("a.toml:6:10"), "{message}");
}

#[test]
fn a_file_that_can_not_be_read_still_names_its_devices() {
    let text = "version = 1\n[[endpoint]\n device = \"eth0\" # the wire\ndevice='ve-*'\n# device = \"no\"\nx\n\
                [[endpoint]]\nrole = \"netdev\"\ndevice = \"a\"\n[[endpoint]]\ndevice = \"b\"\nrole = \"netdev\"";
    let found = Documents::devices_of_ruin(text);
    let wanted = [("eth0", false), ("ve-*", false), ("a", true), ("b", true)];
    assert_eq!(found, wanted.map(|(device, is_nic)| (device.to_owned(), is_nic)));
}
