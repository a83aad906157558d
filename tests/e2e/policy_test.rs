//! What `policy test` tells of flows that are up, beside what becomes of them when the rules are enforced.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::{Value, json};

use super::adoption_of_datagrams::{Talk, track};
use super::nat::translating;
use crate::common::World;
use crate::common::process::Run;
use crate::common::traffic::{
    Connection, HOST, SILENCE, any, arrives, is_lost, is_unanswered, listen, ping, udp,
};

/// A flow of the host by its NIC, with the ends that this has.
struct Flow {
    name: String,
    kind: Kind,
    /// Of the host.
    here: SocketAddr,
    there: SocketAddr,
}

enum Kind {
    Tcp(Connection),
    Udp(Box<Talk>),
}

impl Flow {
    /// `is_in`: `red` begins it.
    fn tcp(world: &World, is_in: bool, port: u16, address: &str) -> Flow {
        if !is_in {
            return Flow::tcp_to(world, "red", port, address);
        }
        let connection = Connection::open(world, "red", &listen(world, HOST, port), address);
        let (there, here) =
            (connection.client.local_addr().unwrap(), connection.client.peer_addr().unwrap());
        Flow { name: format!("tcp/{port} {address}"), kind: Kind::Tcp(connection), here, there }
    }

    /// The host begins it.
    fn tcp_to(world: &World, name: &str, port: u16, address: &str) -> Flow {
        let connection = Connection::open(world, HOST, &listen(world, name, port), address);
        let (here, there) =
            (connection.client.local_addr().unwrap(), connection.client.peer_addr().unwrap());
        Flow { name: format!("tcp/{port} {address}"), kind: Kind::Tcp(connection), here, there }
    }

    fn udp(world: &World, is_in: bool, address: &'static str) -> Flow {
        let (from, to) = if is_in { ("red", HOST) } else { (HOST, "red") };
        let talk = Talk::begin(world, from, to, address);
        let port = talk.answerer.local_addr().unwrap().port();
        let server = SocketAddr::new(address.parse().unwrap(), port);
        let (here, there) = if is_in { (server, talk.seen) } else { (talk.seen, server) };
        Flow { name: format!("udp/{port} {address}"), kind: Kind::Udp(Box::new(talk)), here, there }
    }

    /// The service, as rules name it.
    fn service(&self) -> &str {
        self.name.split_once(' ').unwrap().0
    }

    /// Who has begun it sends first: without adoption the others' packets begin nothing.
    fn goes_on(&self) {
        println!("{} goes on", self.name);
        match &self.kind {
            Kind::Tcp(connection) => connection.works(),
            Kind::Udp(talk) => {
                assert_eq!(arrives(&talk.asker, &talk.answerer, talk.address), talk.seen);
                talk.is_answered();
            }
        }
    }

    fn is_cut(&self) {
        println!("{} is cut", self.name);
        match &self.kind {
            Kind::Tcp(connection) => connection.is_cut(),
            Kind::Udp(talk) => talk.is_cut(),
        }
    }

    /// What is told of it at a device.
    fn told<'a>(&self, lines: &'a Value, device: &str) -> Option<&'a Value> {
        let is_it = |line: &&Value| {
            let end = |address: &str, port: &str| {
                let address = line[address].as_str().unwrap().parse().unwrap();
                SocketAddr::new(address, line[port].as_u64().unwrap() as u16)
            };
            line["device"] == device
                && (end("local", "local_port"), end("remote", "remote_port"))
                    == (self.here, self.there)
        };
        let mut found = lines.as_array().expect("a list").iter().filter(is_it);
        let one = found.next();
        assert!(found.next().is_none(), "{} twice", self.name);
        one
    }
}

fn told(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

fn verdict(line: Option<&Value>) -> &str {
    line.map_or("none", |line| line["verdict"].as_str().unwrap())
}

/// The file, of a NIC with these rules.
fn file(rules: &[String], adopt: &str) -> String {
    format!(
        r#"version = 1
        [identities]
        office = 300
        [ipcache]
        "10.1.0.0/24" = "office"
        "fd00:1::/64" = "office"
        [[endpoint]]
        device = "red"
        role = "netdev"
        policy = "enforce"
        failsafe = ["tcp/22", "egress:udp/53"]
        {adopt}
        rules = {}"#,
        json!(rules)
    )
}

/// By both families: what begins here and there, which rules allow, deny and do not name, and a login.
fn flows(world: &World, has_datagrams: bool) -> (Vec<(Flow, &'static str)>, Vec<String>) {
    let (mut flows, mut rules) = (Vec::new(), Vec::new());
    for (is_in, v4, v6) in [(true, "10.1.0.1", "fd00:1::1"), (false, "10.1.0.10", "fd00:1::10")] {
        let verb = if is_in { "ingress from" } else { "egress to" };
        let login = if is_in { "failsafe" } else { "no-rule" };
        for address in [v4, v6] {
            flows.push((Flow::tcp(world, is_in, 5001, address), "allow"));
            flows.push((Flow::tcp(world, is_in, 5002, address), "deny"));
            flows.push((Flow::tcp(world, is_in, 5003, address), "no-rule"));
            flows.push((Flow::tcp(world, is_in, 22, address), login));
            if has_datagrams {
                let allowed = Flow::udp(world, is_in, address);
                rules.push(format!("allow {verb} 300 {}", allowed.service()));
                flows.push((allowed, "allow"));
                flows.push((Flow::udp(world, is_in, address), "no-rule"));
            }
        }
        rules.push(format!("allow {verb} 300 tcp/5001"));
        rules.push(format!("deny {verb} office tcp/5002"));
        rules.push(format!("allow {verb} any tcp/5002"));
    }
    (flows, rules)
}

/// Rules by numbers, since the file's names come with it.
fn by_number(rules: Vec<String>) -> Vec<String> {
    rules.into_iter().map(|rule| rule.replace("office", "300")).collect()
}

/// Those with these verdicts go on, and all others are cut. All at once: silence takes a while.
fn become_of(flows: &[(Flow, &'static str)], live: &[&str]) {
    std::thread::scope(|scope| {
        for (flow, verdict) in flows {
            scope.spawn(|| if live.contains(verdict) { flow.goes_on() } else { flow.is_cut() });
        }
    });
}

#[test]
fn just_the_flows_that_it_calls_denied_or_without_a_rule_stop_when_all_is_enforced() {
    for is_tracked in [true, false] {
        let claim = move || {
            let Some(world) = World::new() else { return };
            world.workload("red", 1);
            if is_tracked {
                track(&world);
            }
            // Sockets that are not connected tell nothing of whom they talk to.
            let (flows, rules) = flows(&world, is_tracked);
            fs::write("/run/netns/cilmark.toml", file(&by_number(rules), "adopt = \"0s\""))
                .unwrap();
            let run = world.cilmark("policy test /run/netns/cilmark.toml --json");
            assert_eq!(run.status, Some(4), "{run:?}");
            let lines = told(&run);
            assert_eq!(lines.as_array().unwrap().len(), flows.len(), "{lines:#}");
            for (flow, wanted) in &flows {
                let line = flow.told(&lines, "red").unwrap_or_else(|| panic!("{}", flow.name));
                // Rules allow only what one end sends, and the other may send first: but from a failsafe port.
                let wanted = match *wanted {
                    "allow" => "unknown",
                    "failsafe" => "allow",
                    wanted => wanted,
                };
                assert_eq!(verdict(Some(line)), wanted, "{} {line:#}", flow.name);
                assert_eq!((&line["identity"], &line["adopted"]), (&json!(300), &json!(false)));
                let by_kernel = line["known_by"].as_array().unwrap().contains(&json!("kernel"));
                assert_eq!(by_kernel, is_tracked, "{line:#}");
            }
            assert!(world.pins().is_empty(), "nothing is attached: {:?}", world.pins());
            world.cilmark_ok("apply /run/netns/cilmark.toml --yes");
            become_of(&flows, &["allow", "failsafe"]);
        };
        std::thread::spawn(claim).join().unwrap_or_else(|_| panic!("tracked: {is_tracked}"));
    }
}

#[test]
fn what_it_calls_adopted_goes_on_without_a_rule_and_what_a_rule_denies_stops() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    track(&world);
    let (flows, rules) = flows(&world, true);
    fs::write("/run/netns/cilmark.toml", file(&by_number(rules), "")).unwrap();
    let run = world.cilmark("policy test /run/netns/cilmark.toml --json");
    assert!(run.stderr.contains("; 10 are adopted: they go on"), "{run:?}");
    let lines = told(&run);
    world.cilmark_ok("apply /run/netns/cilmark.toml --yes");
    for (flow, wanted) in &flows {
        let line = flow.told(&lines, "red").unwrap_or_else(|| panic!("{}", flow.name));
        assert_eq!(line["adopted"], *wanted == "no-rule", "{line:#}");
        let verdict = if *wanted == "failsafe" { "allow" } else { wanted };
        assert_eq!(line["verdict"], verdict, "{line:#}");
    }
    become_of(&flows, &["allow", "failsafe", "no-rule"]);
}

#[test]
fn a_workloads_masqueraded_flow_passes_the_nic_and_meets_the_workloads_own_rules() {
    let Some(world) = translating() else { return };
    let servers = [listen(&world, "red", 5001), listen(&world, "red", 5002)];
    let open = |server| Connection::open(&world, "blue", server, "10.1.0.10");
    let [allowed, not] = servers.each_ref().map(open);
    let published =
        Connection::published(&world, "red", &listen(&world, "blue", 80), "10.1.0.1", 8080);
    let rules = by_number(vec!["allow egress to any tcp/8080".to_owned()]);
    let blue = r#"
        [[endpoint]]
        device = "blue"
        id = 400
        ip = ["10.2.0.10", "fd00:2::10"]
        policy = "enforce"
        rules = ["allow egress to office tcp/5001", "allow ingress from 300 tcp/80"]"#;
    let text = file(&rules, "adopt = \"0s\"") + blue;
    fs::write("/run/netns/cilmark.toml", text).unwrap();
    let run = world.cilmark("policy test /run/netns/cilmark.toml --json");
    assert_eq!(run.status, Some(4), "{run:?}");
    let lines = told(&run);
    let of = |device: &str, port: &str, number: u16| {
        let is_it = |line: &&Value| line["device"] == device && line[port] == number;
        let found: Vec<&Value> = lines.as_array().unwrap().iter().filter(is_it).collect();
        assert_eq!(found.len(), 1, "{device} {number}: {lines:#}");
        (found[0]["verdict"].clone(), found[0]["because"].clone())
    };
    let by_first = (json!("unknown"), json!("goes on only if the end that began it sends first"));
    for port in [5001, 5002] {
        assert_eq!(of("red", "remote_port", port), by_first);
    }
    assert_eq!(of("blue", "remote_port", 5001), by_first);
    assert_eq!(of("blue", "remote_port", 5002).0, "no-rule");
    assert_eq!(of("blue", "local_port", 80), by_first);
    assert_eq!(of("red", "local_port", 8080).0, "no-rule");
    let of_blue = world.cilmark("policy test /run/netns/cilmark.toml blue --json");
    let only = told(&of_blue);
    assert!(only.as_array().unwrap().iter().all(|line| line["device"] == "blue"), "{only:#}");
    world.cilmark_ok("apply /run/netns/cilmark.toml --yes");
    allowed.works();
    not.is_cut();
    published.is_cut();
}

#[test]
fn what_audit_knows_of_a_workload_is_judged_by_other_rules() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let attach = "attach red --id 400 --ip 10.1.0.10 fd00:1::10";
    world.cilmark_ok(&format!("{attach} --policy audit"));
    let in_server = listen(&world, "red", 5001);
    let out_server = listen(&world, HOST, 5002);
    let inwards = Connection::open(&world, HOST, &in_server, "fd00:1::10");
    let outwards = Connection::open(&world, "red", &out_server, "10.1.0.1");
    let [asker, answerer] = ["red", HOST].map(|at| udp(&world, at, any("10.1.0.1")));
    arrives(&asker, &answerer, "10.1.0.1");
    let run = world.cilmark_with_input(
        "policy test - red --json",
        "# what it is for\nallow ingress from host tcp/5001\n",
    );
    let lines = told(&run);
    let of = |direction: &str, protocol: &str| {
        let is_it = |line: &&Value| line["direction"] == direction && line["protocol"] == protocol;
        let found: Vec<&Value> = lines.as_array().unwrap().iter().filter(is_it).collect();
        assert_eq!(found.len(), 1, "{direction} {protocol}: {lines:#}");
        found[0].clone()
    };
    let port = answerer.local_addr().unwrap().port();
    let inward = of("ingress", "tcp");
    // Audit has let it pass without a rule, which leaves nothing that says who began.
    assert_eq!((&inward["verdict"], &inward["identity"]), (&json!("unknown"), &json!(1)));
    assert_eq!(inward["known_by"], json!(["cilmark", "socket"]));
    assert_eq!(of("egress", "tcp")["to_allow"], json!(["allow egress to host tcp/5002"]));
    assert_eq!(
        of("egress", "udp")["to_allow"],
        json!([format!("allow egress to host udp/{port}")])
    );
    inwards.works();
    let enforce = "--policy enforce --rule allow ingress from host tcp/5001";
    world.cilmark_ok(&format!("{attach} {enforce}"));
    inwards.works();
    outwards.is_cut();
    is_lost(&asker, &answerer, "10.1.0.1");
}

/// The lines of the file, by device and the port of the other end.
fn lines_of(world: &World) -> Vec<(String, String)> {
    let run = world.cilmark("policy test /run/netns/cilmark.toml --json");
    let told = told(&run);
    let line = |line: &Value| {
        let remote = format!("{} {}", line["remote"].as_str().unwrap(), line["remote_port"]);
        (line["device"].as_str().unwrap().to_owned(), remote)
    };
    told.as_array().unwrap().iter().map(line).collect()
}

#[test]
fn a_flow_belongs_to_the_nic_by_which_it_leaves_also_through_a_bridge() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    let nic = |name: &&str| {
        format!("[[endpoint]]\ndevice = \"{name}\"\nrole = \"netdev\"\npolicy = \"enforce\"\n")
    };
    let file = |nics: &[&str]| {
        let nics: String = nics.iter().map(nic).collect();
        fs::write("/run/netns/cilmark.toml", format!("version = 1\n{nics}")).unwrap();
    };
    let open = |name, address| Connection::open(&world, HOST, &listen(&world, name, 5001), address);
    let _both = [open("red", "10.1.0.10"), open("blue", "10.2.0.10")];
    let [by_red, by_blue] = [("red", "10.1.0.10 5001"), ("blue", "10.2.0.10 5001")]
        .map(|(device, remote)| (device.to_owned(), remote.to_owned()));
    file(&["red", "blue"]);
    assert_eq!(lines_of(&world), [by_blue, by_red.clone()]);
    let note = "what comes in by another one meets the rules of that one, too";
    let says = || world.cilmark("policy test /run/netns/cilmark.toml").stderr.contains(note);
    assert!(says());
    file(&["red"]);
    assert_eq!(lines_of(&world), std::slice::from_ref(&by_red));
    assert!(!says());
    world.sh("ip link add bridge0 type bridge && ip link set bridge0 up && ip addr flush dev red
         ip link set red master bridge0 && ip addr add 10.1.0.1/24 dev bridge0");
    assert_eq!(lines_of(&world), [by_red]);
}

/// Whoever takes flows over takes those that go by others, too.
#[test]
fn what_one_nic_has_taken_over_is_asked_of_the_one_by_which_it_goes() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    track(&world);
    let flow = Flow::tcp_to(&world, "blue", 5001, "10.2.0.10");
    world.cilmark_ok("attach red --role netdev --policy enforce --yes --rule allow egress to any");
    let nic = |name: &str, adopt: &str| {
        format!(
            "[[endpoint]]\ndevice = \"{name}\"\nrole = \"netdev\"\npolicy = \"enforce\"\n{adopt}\n"
        )
    };
    let nics = [nic("red", ""), nic("blue", "adopt = \"0s\"")].concat();
    fs::write("/run/netns/cilmark.toml", format!("version = 1\n{nics}")).unwrap();
    let lines = told(&world.cilmark("policy test /run/netns/cilmark.toml --json"));
    assert_eq!(verdict(flow.told(&lines, "red")), "allow", "{lines:#}");
    let by_blue = flow.told(&lines, "blue").expect("a line of the NIC by which it goes");
    assert_eq!((verdict(Some(by_blue)), &by_blue["adopted"]), ("no-rule", &json!(false)));
    world.cilmark_ok("apply /run/netns/cilmark.toml --yes");
    let Kind::Tcp(Connection { mut client, mut server }) = flow.kind else { unreachable!() };
    client.write_all(b"hello").unwrap();
    server.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(server.read(&mut [0; 5]).is_err(), "what its originator sends is cut");
}

#[test]
fn what_one_workload_knows_of_another_is_asked_of_both() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10 --policy audit");
    let connection = Connection::open(&world, "red", &listen(&world, "blue", 5001), "10.2.0.10");
    connection.works();
    let workload = |name: &str, id: u32, ip: &str, rules: &str| {
        format!(
            "[[endpoint]]\ndevice = \"{name}\"\nid = {id}\nip = [\"{ip}\"]\npolicy = \"enforce\"\nrules = [{rules}]\n"
        )
    };
    let allow = "\"allow egress to any\", \"allow ingress from any\"";
    let both = [workload("red", 300, "10.1.0.10", allow), workload("blue", 301, "10.2.0.10", "")];
    fs::write("/run/netns/cilmark.toml", format!("version = 1\n{}", both.concat())).unwrap();
    let lines = told(&world.cilmark("policy test /run/netns/cilmark.toml --json"));
    let of = |device: &str| {
        let is_it = |line: &&Value| line["device"] == device;
        let line = lines.as_array().unwrap().iter().find(is_it).expect("a line");
        [line["direction"].clone(), line["verdict"].clone(), line["identity"].clone()]
    };
    assert_eq!(of("red"), [json!("egress"), json!("allow"), json!(301)]);
    assert_eq!(of("blue"), [json!("ingress"), json!("no-rule"), json!(300)]);
    world.cilmark_ok("apply /run/netns/cilmark.toml --yes");
    connection.is_cut();
}

#[test]
fn local_delivery_alone_knows_no_flow_of_a_workload() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10 --local-delivery");
    let workload =
        "[[endpoint]]\ndevice = \"red\"\nid = 300\nip = [\"10.1.0.10\"]\nlocal_delivery = true\n";
    let file = format!("version = 1\n{workload}policy = \"enforce\"\n");
    fs::write("/run/netns/cilmark.toml", file).unwrap();
    let told = || world.cilmark("policy test /run/netns/cilmark.toml").stderr;
    let note = "of the flows of red only those with this host, and";
    assert!(told().contains(note), "{}", told());
    world.cilmark_ok("attach red --keep --policy audit");
    assert!(!told().contains(note), "{}", told());
}

#[test]
fn what_nat_of_this_host_has_translated_is_one_flow_and_what_nobody_answers_none() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    track(&world);
    world.sh("nft 'table ip nat { chain output { type nat hook output priority -100;
              ip daddr 10.1.0.99 tcp dport 5009 dnat to 10.1.0.10:5001; }; }'");
    let server = listen(&world, "red", 5001);
    let _translated = Connection::published(&world, HOST, &server, "10.1.0.99", 5009);
    let [open, outside] = [HOST, "red"].map(|at| udp(&world, at, any("10.1.0.1")));
    arrives(&outside, &open, "10.1.0.1");
    let taken = outside.local_addr().unwrap().port();
    fs::write("/run/netns/cilmark.toml", file(&[], "")).unwrap();
    let wanted = [format!("10.1.0.10 {taken}"), "10.1.0.10 5001".to_owned()];
    let remotes = || -> Vec<String> { lines_of(&world).into_iter().map(|it| it.1).collect() };
    assert_eq!(remotes(), wanted);
    // Nobody waits for it any more.
    drop(open);
    assert_eq!(remotes(), wanted[1..]);
}

/// What is told of the file's flows, one by one.
fn all_told(world: &World) -> Vec<Value> {
    let run = world.cilmark("policy test /run/netns/cilmark.toml --json");
    told(&run).as_array().expect("a list").clone()
}

#[test]
fn echoes_and_datagrams_that_nobody_has_answered_are_not_adopted() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    track(&world);
    ping(&world, HOST, "10.1.0.10");
    let [asker, silent] = [HOST, "red"].map(|at| udp(&world, at, any("10.1.0.10")));
    arrives(&asker, &silent, "10.1.0.10");
    fs::write("/run/netns/cilmark.toml", file(&[], "")).unwrap();
    let told = all_told(&world);
    assert_eq!(told.len(), 2, "{told:?}");
    for line in told {
        assert_eq!((&line["verdict"], &line["adopted"]), (&json!("no-rule"), &json!(false)));
    }
    world.cilmark_ok("apply /run/netns/cilmark.toml --yes");
    is_lost(&asker, &silent, "10.1.0.10");
    is_unanswered(&world, HOST, "10.1.0.10");
}

#[test]
fn a_download_is_not_called_allowed_by_what_allows_its_request_unless_it_is_adopted() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    track(&world);
    let connection = Connection::open(&world, HOST, &listen(&world, "red", 5001), "10.1.0.10");
    let rules = by_number(vec!["allow egress to office tcp/5001".to_owned()]);
    let one = |adopt: &str| {
        fs::write("/run/netns/cilmark.toml", file(&rules, adopt)).unwrap();
        let told = all_told(&world);
        assert_eq!(told.len(), 1, "{told:?}");
        told[0]["verdict"].clone()
    };
    assert_eq!(one(""), "allow");
    assert_eq!(one("adopt = \"0s\""), "unknown");
    world.cilmark_ok("apply /run/netns/cilmark.toml --yes");
    (&connection.server).write_all(b"hello").unwrap();
    connection.client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!((&connection.client).read(&mut [0; 5]).is_err(), "it came through");
}

#[test]
fn behind_masquerade_of_this_host_a_workload_is_known_by_its_mark() {
    let Some(world) = translating() else { return };
    world.cilmark_ok("attach blue --id 400 --ip 10.2.0.10");
    let connection = Connection::open(&world, "blue", &listen(&world, "red", 5001), "10.1.0.10");
    let of_red = |rule: &str| {
        let text = format!(
            r#"version = 1
            [[endpoint]]
            device = "red"
            id = 500
            ip = ["10.1.0.10"]
            policy = "enforce"
            adopt = "30s"
            rules = ["{rule}"]"#
        );
        fs::write("/run/netns/cilmark.toml", text).unwrap();
        let told = all_told(&world);
        assert_eq!(told.len(), 1, "{told:?}");
        let line = &told[0];
        assert_eq!((&line["device"], &line["identity"]), (&json!("red"), &json!(400)), "{line}");
        line["verdict"].clone()
    };
    assert_eq!(of_red("allow ingress from host tcp/5001"), "no-rule");
    assert_eq!(of_red("deny ingress from host tcp/5001"), "no-rule");
    assert_eq!(of_red("allow ingress from 400 tcp/5001"), "allow");
    world.cilmark_ok("apply /run/netns/cilmark.toml --yes");
    connection.works();
    assert_eq!(of_red("deny ingress from 400 tcp/5001"), "deny");
    world.cilmark_ok("apply /run/netns/cilmark.toml --yes");
    connection.is_cut();
}

#[test]
fn who_sends_from_a_privileged_port_where_nobody_listens_has_begun() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.sh("sysctl -qw net.ipv4.ip_unprivileged_port_start=0
              sysctl -qw net.ipv4.ip_local_port_range='803 804'");
    let connection = Connection::open(&world, HOST, &listen(&world, "red", 2049), "10.1.0.10");
    let port = connection.client.local_addr().unwrap().port();
    assert!(matches!(port, 803 | 804), "{port}");
    fs::write("/run/netns/cilmark.toml", file(&[], "adopt = \"0s\"")).unwrap();
    let direction = || {
        let told = all_told(&world);
        assert_eq!(told.len(), 1, "{told:?}");
        told[0]["direction"].clone()
    };
    assert_eq!(direction(), "egress");
    let listen_on = |at: &str| world.inside(HOST, || TcpListener::bind((at, port))).expect("bind");
    let _inside = listen_on("127.0.0.1");
    assert_eq!(direction(), "egress");
}
