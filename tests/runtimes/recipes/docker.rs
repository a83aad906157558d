//! docs/recipes/docker.md.

use super::super::Host;
use super::paste;
use crate::common::pages::blocks;
use crate::common::world::wait_for;

const PAGE: &str = include_str!("../../../docs/recipes/docker.md");

/// What somebody outside gets of a server here, from one of his addresses.
fn got(host: &Host, from: &str, to: &str) -> String {
    let socat = format!("socat -t1 -T2 - TCP:{to},bind={from},connect-timeout=1");
    let request = "printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n'";
    host.try_sh(&format!("{request} | nsenter --net=/var/host/outside {socat} | tail -n 1")).stdout
}

/// Which of the published ports he gets the site from.
fn open(host: &Host, from: &str) -> Vec<u16> {
    let is_open = |port: &u16| got(host, from, &format!("198.51.100.2:{port}")).trim() == "site";
    [8080, 8081, 8082].into_iter().filter(is_open).collect()
}

/// Whether a container gets the page of another one.
fn asks(host: &Host, container: &str, url: &str) -> bool {
    // What is linked statically crashes with `wget -T`.
    let wget = format!("busybox timeout 1 wget -qO- http://{url}/hostname");
    host.try_sh(&format!("docker exec {container} {wget}")).status == Some(0)
}

/// Their servers are up, and each says the same.
fn have_the_site(host: &Host, containers: &[&str]) {
    for name in containers {
        host.sh(&format!("docker exec {name} sh -c 'echo site >/etc/hostname'"));
    }
}

const WORLD: &str = "198.51.100.1";
const OFFICE: &str = "203.0.113.9";

#[test]
fn published_ports_are_reached_from_outside_only_where_a_rule_says_so_by_pasting() {
    let Some(host) = Host::new() else { return };
    host.daemon("dockerd", "docker info");
    // What a registry would give.
    host.sh("for name in cat httpd ping wget; do ln -sf busybox /var/host/image/bin/$name; done
         tar -C /var/host/image -c . | docker import - busybox
         nsenter --net=/var/host/outside ip addr add 203.0.113.9/32 dev lo");
    paste(&host, PAGE, "## Containers");
    have_the_site(&host, &["web", "admin"]);
    // As Docker has it: open to all whom the container lets in.
    wait_for("the servers", || open(&host, OFFICE) == [8080, 8081]);
    assert_eq!(open(&host, WORLD), [8080]);

    // And one that nobody has thought of.
    host.sh("docker run -d --name other --network shop -p 8082:80 busybox httpd -f -h /etc");
    have_the_site(&host, &["other"]);
    wait_for("the server", || open(&host, WORLD) == [8080, 8082]);
    paste(&host, PAGE, "## The host's firewall");
    assert_eq!(open(&host, WORLD), [8080]);
    assert_eq!(open(&host, OFFICE), [8080, 8081]);
    let looks = blocks(PAGE, "## What you see", "sh");
    let [look, change] = looks.as_slice() else { panic!("{looks:?}") };
    let seen = host.sh(look);
    for word in ["id-from=label", "rules-from=label", "enforce/enforce", "tcp/8081"] {
        assert!(seen.contains(word), "no {word} in {seen}");
    }
    for (line, ports) in change.lines().zip([&[][..], &[8080]]) {
        host.sh(line);
        assert_eq!(open(&host, WORLD), ports, "{line}");
    }

    assert!(asks(&host, "web", "db:5432") && asks(&host, "other", "web"));
    for (container, url) in
        [("admin", "db:5432"), ("other", "db:5432"), ("other", "admin"), ("db", "web")]
    {
        assert!(!asks(&host, container, url), "{container} asks {url}");
    }
    // This host, and by docker-proxy everybody who calls by IPv6, are host to a container.
    let by_ipv6 = |port: u16| got(&host, "[2001:db8:100::1]", &format!("[2001:db8:100::2]:{port}"));
    assert_eq!(by_ipv6(8080).trim(), "site");
    host.sh("cilmark policy add eth0 allow ingress from any tcp/8081 --yes");
    assert_eq!(by_ipv6(8081), "", "the container lets the office in");
    host.sh("cilmark policy add @admin allow ingress from host tcp/80");
    assert_eq!(by_ipv6(8081).trim(), "site");
    host.sh("cilmark policy flush @admin; cilmark policy del eth0 allow ingress from any tcp/8081 --yes");
    // A machine beside this host may send to a container itself.
    let of_web = host
        .sh("docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' web db");
    let addresses: Vec<&str> = of_web.lines().collect();
    host.sh("nsenter --net=/var/host/outside ip route add 172.16.0.0/12 via 198.51.100.2");
    host.sh("cilmark policy del eth0 allow ingress from any tcp/8080 --yes");
    assert_eq!(got(&host, WORLD, &format!("{}:80", addresses[0])).trim(), "site");
    host.sh("iptables -I FORWARD -j ACCEPT");
    assert_eq!(got(&host, WORLD, &format!("{}:5432", addresses[1])), "");

    paste(&host, PAGE, "## To keep it");
    host.sh("docker rm -f other");
    paste(&host, PAGE, "## To undo it");
    host.nothing_is_left();
    host.sh("test ! -e /etc/docker/daemon.json");
}
