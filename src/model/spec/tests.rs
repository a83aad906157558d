use std::net::IpAddr;
use std::time::Duration;

use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::model::birth::Hook;
use crate::model::enforcement::{FailsafePort, Mode};
use crate::model::protocol::{TCP, UDP};

fn modes() -> impl Strategy<Value = Modes> {
    let mode = || select(Mode::ALL);
    (mode(), mode()).prop_map(|(ingress, egress)| Modes { ingress, egress })
}

fn mac() -> impl Strategy<Value = Mac> {
    any::<[u8; 6]>().prop_map(|[first, rest @ ..]| {
        let [b, c, d, e, f] = rest;
        Mac([first & !1, b, c, d, e, f | 1])
    })
}

fn workload_mac() -> impl Strategy<Value = WorkloadMac> {
    prop_oneof![Just(WorkloadMac::Any), mac().prop_map(WorkloadMac::Only)]
}

fn identity() -> impl Strategy<Value = IdentityRef> {
    prop_oneof![
        (1..=u32::MAX).prop_map(|number| IdentityRef::Number(Identity(number))),
        "[a-z][a-z0-9_.-]{0,30}"
            .prop_filter("the name of nobody", |name| name != "unknown")
            .prop_map(IdentityRef::Name),
    ]
}

fn time() -> impl Strategy<Value = Time> {
    (0..604_800_000_u64).prop_map(|ms| Time::new(Duration::from_millis(ms)).unwrap())
}

fn failsafe() -> impl Strategy<Value = FailsafeList> {
    let port = || {
        (select(&[TCP, UDP][..]), any::<u16>())
            .prop_map(|(protocol, port)| FailsafePort { protocol, port })
    };
    let ports = move || option::of(prop::collection::vec(port(), 0..4));
    (ports(), ports())
        .prop_filter("an empty list is none", |(ingress, egress)| {
            ingress.is_some() || egress.is_some()
        })
        .prop_map(|(ingress, egress)| FailsafeList::of(ingress, egress))
}

fn entries<const LEAST: u32>() -> impl Strategy<Value = Option<Entries<LEAST>>> {
    option::of((LEAST..=MAX_ENTRIES).prop_map(|entries| Entries::new(entries).unwrap()))
}

fn own() -> impl Strategy<Value = IpNet> {
    let net = |(ip, length): (IpAddr, u8)| {
        let most = if ip.is_ipv4() { 32 } else { 128 };
        IpNet::new(ip, length.min(most)).unwrap().trunc()
    };
    (any::<IpAddr>(), any::<u8>()).prop_map(net)
}

fn owner() -> impl Strategy<Value = Owner> {
    "\\PC{1,15}".prop_map(|text| Owner::try_from(text).unwrap())
}

prop_compose! {
    fn birth()(
        hook in select(Hook::ALL),
        (runtime, id_from) in (".{1,9}", ".{1,9}"),
        (network, bundle) in (option::of(".{1,9}"), option::of(".{1,9}")),
        (ifname, rules_from) in (option::of(".{1,9}"), option::of(".{1,9}")),
        sharers in prop::collection::vec(owner(), 0..3),
    ) -> Birth {
        Birth { hook, runtime, network, bundle, ifname, id_from, rules_from, sharers }
    }
}

prop_compose! {
    fn any_spec()(
        (device, owner, role, id) in
            ("\\PC{1,15}", option::of(owner()), option::of(select(Role::ALL)), option::of(identity())),
        birth in option::of(birth()),
        labels in prop::collection::btree_map(".{1,9}", ".{0,9}", 0..3),
        (endpoint_id, ip, shared_ip, mac, workload_mac) in (
            option::of((1..=u16::MAX).prop_map(|id| EndpointId::new(id).unwrap())),
            (prop::collection::vec(own(), 0..4), any::<bool>()),
            prop::collection::vec(own(), 0..2),
            option::of(mac()),
            option::of(workload_mac()),
        ),
        flags in any::<[bool; 9]>(),
        prefix in option::of((any::<std::net::Ipv6Addr>(), 0..=128_u8)),
        (host_addresses, hook, ct, log) in (
            select(HostAddresses::ALL),
            select(HookChoice::ALL),
            select(CtScope::ALL),
            select(VerdictLog::ALL),
        ),
        (policy, adopt, failsafe) in (modes(), option::of(time()), option::of(failsafe())),
        (ct_entries, policy_entries, ipcache_entries) in (entries(), entries(), entries()),
        rules in option::of(prop::collection::vec("[a-z0-9/ ]{0,40}", 0..3)),
    ) -> EndpointSpec {
        EndpointSpec {
            device,
            owner,
            birth,
            labels: Labels(labels),
            role,
            id,
            endpoint_id,
            ip: OwnAddresses { listed: ip.0, from_netns: ip.1 },
            shared_ip,
            mac,
            workload_mac,
            arp_responder: flags[0],
            trust_proxy: flags[1],
            flow_label: flags[2],
            trust_flow_label: prefix.map(|(ip, length)| Ipv6Net::new(ip, length).unwrap().trunc()),
            stamp_remote: flags[3],
            local_delivery: flags[4],
            router: flags[5],
            by_address: flags[6],
            trust_marks: flags[7],
            host_addresses,
            hook,
            first: flags[8],
            policy,
            adopt,
            failsafe,
            policy_verdict_log: log,
            ct,
            ct_entries,
            policy_entries,
            ipcache_entries,
            rules,
        }
    }
}

proptest! {
    #[test]
    fn every_spec_reads_back(spec in any_spec()) {
        let text = serde_json::to_string(&spec).unwrap();
        prop_assert_eq!(serde_json::from_str::<EndpointSpec>(&text).unwrap(), spec, "{}", text);
    }
}

fn read(text: &str) -> Result<EndpointSpec, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

#[test]
fn what_is_not_named_is_as_without_the_flag_and_is_not_written() {
    let spec = read(r#"{"device": "eth0"}"#).unwrap();
    assert_eq!(spec, EndpointSpec::new("eth0"));
    assert_eq!(serde_json::to_string(&spec).unwrap(), r#"{"device":"eth0"}"#);
}

#[test]
fn a_spec_stands_in_files_as_the_documents_say() {
    let text = r#"{
        "device": "eth0", "id": "web", "ip": ["10.8.0.1", "fd00::1", "10.9.0.0/16"],
        "shared_ip": ["192.0.2.100"], "workload_mac": "any",
        "policy": {"ingress": "enforce", "egress": "audit"}, "failsafe": ["tcp/22", "egress:none"],
        "adopt": "90s", "trust_flow_label": "fd00::/16", "first": true, "ct": "local", "hook": "clsact",
        "policy_entries": 64, "rules": ["allow ingress from any tcp/443"]
    }"#;
    let spec = read(text).unwrap();
    assert_eq!(spec.id, Some(IdentityRef::Name("web".to_owned())));
    assert_eq!(spec.policy, Modes { ingress: Mode::Enforce, egress: Mode::Audit });
    assert_eq!(spec.adopt.unwrap().to_string(), "90s");
    let written: serde_json::Value = serde_json::to_value(&spec).unwrap();
    assert_eq!(written, serde_json::from_str::<serde_json::Value>(text).unwrap());
    let other_ways = [
        (r#""policy": "enforce""#, r#""policy": {"ingress": "enforce", "egress": "enforce"}"#),
        (r#""policy": {"egress": "audit"}"#, r#""policy": {"ingress": "off", "egress": "audit"}"#),
        (r#""id": "0x4d2""#, r#""id": 1234"#),
        (r#""failsafe": "none""#, r#""failsafe": ["ingress:none", "egress:none"]"#),
        (r#""failsafe": "tcp/22,egress:udp/53""#, r#""failsafe": ["tcp/22", "egress:udp/53"]"#),
        (r#""adopt": "60""#, r#""adopt": "1m""#),
    ];
    for (one, other) in other_ways {
        let [one, other] =
            [one, other].map(|field| read(&format!(r#"{{"device": "d", {field}}}"#)).unwrap());
        assert_eq!(one, other);
    }
}

#[test]
fn what_is_wrong_is_named_with_what_was_expected() {
    let long = format!(r#""owner": "{}""#, "x".repeat(256));
    for (field, words) in [
        (r#""polcy": "audit""#, &["unknown field `polcy`", "`policy`"][..]),
        (r#""policy": "on""#, &["`on` is not a mode", "`off`, `audit` or `enforce`"]),
        (r#""policy": {"in": "audit"}"#, &["unknown field `in`", "`ingress`"]),
        (r#""policy": 2"#, &["a mode, or one of ingress"]),
        (r#""role": "host""#, &["`host` is not a role", "`container` or `netdev`"]),
        (r#""id": 0"#, &["it means unknown"]),
        (r#""id": "unknown""#, &["it means unknown"]),
        (r#""id": -1"#, &["`-1`", "a number or a name"]),
        (r#""id": 4294967296"#, &["`4294967296`", "0 to 4294967295"]),
        (r#""id": true"#, &["a number or a name"]),
        (r#""endpoint_id": 0"#, &["`0`", "1 to 65535"]),
        (r#""ip": ["10.0.0"]"#, &["`10.0.0` is neither an IP address"]),
        (r#""ip": ["10.0.0.0/33"]"#, &["`10.0.0.0/33` is neither an IP address nor a prefix"]),
        (r#""shared_ip": ["vip"]"#, &["`vip` is neither an IP address"]),
        (r#""mac": "01:00:00:00:00:01""#, &["multicast"]),
        (r#""workload_mac": "00:00:00:00:00:00""#, &["nobody's"]),
        (r#""trust_flow_label": "10.0.0.0/8""#, &["`10.0.0.0/8` is not an IPv6 prefix"]),
        (r#""trust_flow_label": "fd00::1/64""#, &["bits beyond its length"]),
        (r#""hook": "xdp""#, &["`xdp`", "`auto`, `tcx` or `clsact`"]),
        (r#""adopt": "soon""#, &["`soon` is no time"]),
        (r#""failsafe": ["22"]"#, &["`22` is no port"]),
        (r#""failsafe": []"#, &["is no port"]),
        (r#""failsafe": ["none", "tcp/22"]"#, &["`none` stands alone"]),
        (r#""policy_entries": 31"#, &["`31`", "32 to 16777216"]),
        (r#""ct_entries": 16777217"#, &["1 to 16777216"]),
        (r#""owner": """#, &["an owner has a name"]),
        (&long, &["256 bytes", "255 are the most"]),
        (r#""first": "yes""#, &["a boolean"]),
    ] {
        let error = read(&format!(r#"{{"device": "d", {field}}}"#)).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{field}: {error}");
    }
    assert!(read("{}").unwrap_err().contains("device"));
}
