//! Configurations, right and wrong.

use super::*;

fn parse(text: &str) -> Result<Config> {
    Config::parse(Path::new("/etc/cilmark/cluster.toml"), text, || Ok("h1".to_owned()))
}

const LEAST: &str = "name = \"edge\"\nid = 7\netcd = \"etcd.config\"\n";

#[test]
fn what_is_not_said_is_as_documented() {
    let config = parse(LEAST).unwrap();
    let expected = Config {
        name: "edge".into(),
        id: 7,
        max_clusters: 255,
        node: "h1".into(),
        etcd: "/etc/cilmark/etcd.config".into(),
        remotes: None,
        publish: true,
        publish_host: false,
        host_ip: None,
        lease: Duration::from_secs(900),
        stale: Duration::from_secs(3600),
        sweep: Sweep { share: 30, lines: 100 },
        limits: Limits { ipv4: 8, ipv6: 16 },
        ipcache_entries: None,
        collect_garbage: true,
        resolve: Resolve::new(),
    };
    assert_eq!(config, expected);
}

#[test]
fn everything_can_be_said() {
    let config = parse(
        r#"
        name = "edge"
        id = 300
        max_clusters = 511
        node = "rack1.host-2"
        etcd = "/var/lib/etcd-config/etcd.config"
        remotes = "clustermesh"
        publish = false
        publish_host = true
        host_ip = "192.0.2.1"
        lease = "10s"
        stale = "0"
        sweep_share = 100
        sweep_lines = 0
        shortest_ipv4 = 0
        shortest_ipv6 = 128
        collect_garbage = false
        ipcache_entries = 1000000
        [resolve]
        "c1.mesh.cilium.io" = "192.0.2.9"
        "#,
    );
    let expected = Config {
        name: "edge".into(),
        id: 300,
        max_clusters: 511,
        node: "rack1.host-2".into(),
        etcd: "/var/lib/etcd-config/etcd.config".into(),
        remotes: Some("/etc/cilmark/clustermesh".into()),
        publish: false,
        publish_host: true,
        host_ip: Some("192.0.2.1".parse().unwrap()),
        lease: Duration::from_secs(10),
        stale: Duration::ZERO,
        sweep: Sweep { share: 100, lines: 0 },
        limits: Limits { ipv4: 0, ipv6: 128 },
        ipcache_entries: Some(1_000_000),
        collect_garbage: false,
        resolve: [("c1.mesh.cilium.io".to_owned(), "192.0.2.9".parse().unwrap())].into(),
    };
    assert_eq!(config.unwrap(), expected);
}

#[test]
fn mistakes_are_told_by_line_and_column_with_what_was_expected() {
    for (line, column, message) in [
        ("nmae = 1", 1, "unknown field `nmae`, expected one of `name`"),
        ("publish = \"yes\"", 11, "expected a boolean"),
        ("max_clusters = 300", 16, "expected 255 or 511"),
        ("node = \"a/b\"", 8, "letters, digits"),
        ("node = \"...\"", 8, "letters, digits"),
        ("node = \"localhost\"", 8, "a name of its own"),
        ("remotes = \"\"", 11, "expected a path"),
        ("host_ip = \"host\"", 11, "IP address"),
        ("lease = \"9s\"", 9, "10s to 24h"),
        ("lease = \"25h\"", 9, "10s to 24h"),
        ("lease = \"soon\"", 9, "write 60s or 5m"),
        ("lease = 900", 9, "expected"),
        ("stale = \"8d\"", 9, "no time up to a week"),
        ("sweep_share = 101", 15, "expected 0 to 100"),
        ("sweep_lines = -1", 15, "expected"),
        ("shortest_ipv4 = 33", 17, "expected 0 to 32"),
        ("shortest_ipv6 = 129", 17, "expected 0 to 128"),
        ("resolve = { a = \"b\" }", 17, "IP address"),
        ("publish = ", 11, ""),
        ("id = 8", 1, "duplicate key"),
    ] {
        let error = parse(&format!("{LEAST}{line}")).unwrap_err().to_string();
        let place = format!("/etc/cilmark/cluster.toml:4:{column}: ");
        assert!(error.starts_with(&place) && error.contains(message), "{line}: {error}");
    }
}

#[test]
fn what_makes_a_cluster_is_needed_and_checked() {
    for (text, message) in [
        ("", "missing field `name`"),
        ("name = \"edge\"\nid = 7", "missing field `etcd`"),
        ("name = \"edge\"\netcd = \"a\"", "missing field `id`"),
        ("name = \"Edge\"\nid = 7\netcd = \"a\"", "cluster.toml:1:8: `Edge` is no name"),
        ("name = \"default\"\nid = 7\netcd = \"a\"", "another name"),
        ("name = \"edge\"\nid = 0\netcd = \"a\"", "cluster.toml:2:6: id is 0; expected a"),
        ("name = \"edge\"\nid = 256\netcd = \"a\"", "with max_clusters = 511"),
        ("name = \"edge\"\nid = 512\netcd = \"a\"\nmax_clusters = 511", "from 1 to 511"),
        ("name = \"edge\"\nid = 70000\netcd = \"a\"", "expected u16"),
        ("name = \"edge\"\nid = 7\netcd = \"\"", "cluster.toml:3:8: expected a path"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
}

#[test]
fn a_host_whose_name_is_no_name_has_to_be_given_one() {
    let nameless = || check_node("localhost").map(|()| String::new());
    let file = Path::new("cluster.toml");
    let error = Config::parse(file, LEAST, nameless).unwrap_err();
    assert!(format!("{error:#}").starts_with("cluster.toml: say in it"), "{error:#}");
    let named = format!("{LEAST}node = \"h2\"");
    assert_eq!(Config::parse(file, &named, nameless).unwrap().node, "h2");
}

#[test]
fn the_example_of_the_package_is_a_configuration() {
    let config = parse(include_str!("../../../packaging/examples/cluster.toml")).unwrap();
    assert_eq!((config.name.as_str(), config.id), ("edge", 7));
}
