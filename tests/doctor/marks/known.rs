//! Software that is known, as it sets itself up.

use super::{counted, nft, says, workloads};
use crate::doctor::doctor;

/// What Tailscale sets up on a host with subnet routes, and, in the last two lines, against rp_filter
/// (util/linuxfw/iptables_runner.go, wgengine/router/osrouter).
const TAILSCALE: &str = "
    ip rule add pref 5210 fwmark 0x80000/0xff0000 lookup main
    ip rule add pref 5230 fwmark 0x80000/0xff0000 lookup default
    ip rule add pref 5250 fwmark 0x80000/0xff0000 unreachable
    ip rule add pref 5270 lookup 52
    TOOL -N ts-forward; TOOL -A FORWARD -j ts-forward
    TOOL -A ts-forward -i tailscale0 -j MARK --set-mark 0x40000/0xff0000
    TOOL -A ts-forward -m mark --mark 0x40000/0xff0000 -j ACCEPT
    TOOL -A ts-forward -o tailscale0 -j ACCEPT
    TOOL -t nat -N ts-postrouting; TOOL -t nat -A POSTROUTING -j ts-postrouting
    TOOL -t nat -A ts-postrouting -m mark --mark 0x40000/0xff0000 -j MASQUERADE";
const TAILSCALE_CONNMARK: &str = "
    TOOL -t mangle -I PREROUTING -m conntrack --ctstate ESTABLISHED,RELATED -j CONNMARK --restore-mark --nfmask 0xff0000 --ctmask 0xff0000
    TOOL -t mangle -I OUTPUT -m conntrack --ctstate NEW -m mark ! --mark 0x0/0xff0000 -j CONNMARK --save-mark --nfmask 0xff0000 --ctmask 0xff0000";

#[test]
fn tailscale_is_known_by_what_it_sets_up() {
    for tool in ["iptables-nft", "iptables-legacy"] {
        let Some(world) = workloads(1284) else { return };
        world.sh(&TAILSCALE.replace("TOOL", tool));
        let found = doctor(&world);
        assert_eq!(found.of("mark").len(), 1, "{:#?}", found.of("mark"));
        let line = says(
            &found,
            "warning",
            &[
                "Tailscale uses bits 16 to 23",
                "-A ts-forward -m mark --mark 0x40000/0xff0000 -j ACCEPT",
                "-A ts-postrouting",
                "also matches the mark of 1284",
                "1285 is free",
            ],
        );
        assert!(!line.contains("turns"), "what comes by tailscale0 is no workload's: {line}");
        world.cilmark_ok("attach web --id 1285 --ip 10.1.0.10");
        says(
            &doctor(&world),
            "ok",
            &["Tailscale", "those whose low byte is 4, those whose low byte is 8"],
        );
        // Identity 1032 is routed as Tailscale's own packets are.
        world.cilmark_ok("attach web --id 1032 --ip 10.1.0.10");
        says(
            &doctor(&world),
            "warning",
            &["Tailscale", "`ip rule` 5250 (fwmark 0x80000/0xff0000 unreachable)", "1033 is free"],
        );
        // What its newer versions restore takes the low byte of all others.
        world.cilmark_ok("attach web --id 1285 --ip 10.1.0.10");
        world.sh(&TAILSCALE_CONNMARK.replace("TOOL", tool));
        let line = says(
            &doctor(&world),
            "warning",
            &["Tailscale", "where nobody has set one it turns 1235 into 1024 and 1285 into 1280"],
        );
        assert!(line.contains("take another identity for 1235: 1280 is free"), "{line}");
        nft(
            &world,
            "table ip watch {
                counter whole { }
                counter cut { }
                chain f { type filter hook forward priority 0;
                    meta mark & 0xffff0fff == 0x05050f00 counter name whole;
                    meta mark & 0xffff0fff == 0x05000f00 counter name cut; }
            }",
        );
        world.cilmark_ok(
            "policy add db allow ingress from 1285 icmp/8 allow ingress from 1280 icmp/8",
        );
        world.sh("ip netns exec web ping -c3 -i0.01 -W1 10.2.0.10");
        let seen = ["whole", "cut"].map(|name| counted(&world, "ip watch", name));
        assert_eq!(seen, [1, 2], "the first is new, the others are established");
    }
}

/// How some set themselves up, as far as it is about marks, and what is said where web has 1234. The sources are those
/// of `model/marks/layouts.rs`.
const OTHERS: [(&str, &str, &[&str]); 10] = [
    (
        "iptables -t nat -N KUBE-MARK-MASQ; iptables -t nat -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
         iptables -t nat -N KUBE-SERVICES; iptables -t nat -A PREROUTING -j KUBE-SERVICES
         iptables -t nat -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp --dport 443 -j KUBE-MARK-MASQ
         iptables -t nat -N KUBE-POSTROUTING; iptables -t nat -A POSTROUTING -j KUBE-POSTROUTING
         iptables -t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
         iptables -t nat -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
         iptables -t nat -A KUBE-POSTROUTING -j MASQUERADE --random-fully
         iptables -N KUBE-FIREWALL; iptables -A INPUT -j KUBE-FIREWALL
         iptables -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP",
        "ok",
        &["kube-proxy uses 0x4000"],
    ),
    (
        "nft 'table ip kube-proxy {
            chain mark-for-masquerade { meta mark set meta mark | 0x4000; }
            chain masquerading { meta mark & 0x4000 == 0 return; meta mark set meta mark ^ 0x4000; masquerade; }
            chain nat-prerouting { type nat hook prerouting priority dstnat; ip daddr 10.96.0.1 jump mark-for-masquerade; }
            chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
         }'",
        "ok",
        &["kube-proxy uses 0x4000"],
    ),
    (
        "iptables -t nat -N CNI-HOSTPORT-SETMARK; iptables -t nat -A PREROUTING -p tcp --dport 80 -j CNI-HOSTPORT-SETMARK
         iptables -t nat -A CNI-HOSTPORT-SETMARK -j MARK --set-xmark 0x2000/0x2000
         iptables -t nat -N CNI-HOSTPORT-MASQ; iptables -t nat -A POSTROUTING -j CNI-HOSTPORT-MASQ
         iptables -t nat -A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE",
        "ok",
        &["the CNI plugin portmap uses 0x2000"],
    ),
    (
        "nft 'table inet netavark {
            chain NETAVARK-HOSTPORT-SETMARK { meta mark set meta mark | 0x2000; }
            chain PREROUTING { type nat hook prerouting priority dstnat; tcp dport 8080 jump NETAVARK-HOSTPORT-SETMARK; }
            chain POSTROUTING { type nat hook postrouting priority srcnat; meta mark & 0x2000 == 0x2000 masquerade; }
         }'",
        "ok",
        &["netavark (Podman) uses 0x2000"],
    ),
    (
        "ip rule add pref 1024 fwmark 0x80/0x80 lookup main
         iptables -t nat -N AWS-CONNMARK-CHAIN-0; iptables -t nat -A PREROUTING -i eni+ -j AWS-CONNMARK-CHAIN-0
         iptables -t nat -A AWS-CONNMARK-CHAIN-0 ! -d 192.168.0.0/16 -j CONNMARK --set-xmark 0x80/0x80
         iptables -t nat -A PREROUTING -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80",
        "warning",
        &["AWS VPC CNI uses bit 7", "by the mark of some connections", "1234 into 8389842", "AWS_VPC_K8S_CNI_CONNMARK"],
    ),
    (
        "iptables -N cali-FORWARD; iptables -A FORWARD -j cali-FORWARD
         iptables -A cali-FORWARD -j MARK --set-xmark 0x0/0xe0000
         iptables -A cali-FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT",
        "problem",
        &["Calico uses bits 16 to 31", "turns 1234 into 1232 and 1235 into 1233", "also matches the mark of 1235", "IptablesMarkMask"],
    ),
    (
        "iptables -t mangle -N mwan3_hook; iptables -t mangle -A PREROUTING -j mwan3_hook
         iptables -t mangle -N mwan3_rules
         iptables -t mangle -A mwan3_hook -j CONNMARK --restore-mark --nfmask 0x3f00 --ctmask 0x3f00
         iptables -t mangle -A mwan3_hook -m mark --mark 0x0/0x3f00 -j mwan3_rules
         iptables -t mangle -A mwan3_hook -j CONNMARK --save-mark --nfmask 0x3f00 --ctmask 0x3f00
         ip rule add pref 2001 fwmark 0x100/0x3f00 lookup 1",
        "problem",
        &["mwan3 uses bits 8 to 13", "where nobody has set one it removes the identities 1234 and 1235", "leaves out", "mmx_mask"],
    ),
    (
        "ip rule add not fwmark 51820 table 51820
         iptables -t mangle -I POSTROUTING -m mark --mark 51820 -p udp -m comment --comment 'wg-quick(8) rule for wg0' -j CONNMARK --save-mark
         iptables -t mangle -I PREROUTING -p udp -m comment --comment 'wg-quick(8) rule for wg0' -j CONNMARK --restore-mark",
        "warning",
        &["wg-quick uses the whole mark", "removes the identities 1234 and", "`Table = off`"],
    ),
    (
        "ip rule add pref 32500 fwmark 0x40/0x60 lookup 180
         nft 'table inet talos { chain kubespan_prerouting { type filter hook prerouting priority filter;
            meta mark & 0x60 == 0x20 accept
            ip daddr 10.99.0.0/16 meta mark set meta mark & 0xffffff9f | 0x40 accept; }
         }'",
        "warning",
        &["Talos KubeSpan uses bits 5 and 6", "turns 1234 into 4195538"],
    ),
    (
        "ip rule add pref 9 fwmark 0x200/0xf00 lookup 2004
         iptables -t mangle -N CILIUM_PRE_mangle; iptables -t mangle -A PREROUTING -j CILIUM_PRE_mangle
         iptables -t mangle -A CILIUM_PRE_mangle -m socket --transparent -j MARK --set-xmark 0x200/0xffffffff",
        "ok",
        &["Cilium uses the layout that cilmark has"],
    ),
];

#[test]
fn others_are_known_by_what_they_set_up() {
    let Some(world) = workloads(1234) else { return };
    for (rules, level, words) in OTHERS {
        world.sh(rules);
        let found = doctor(&world);
        assert_eq!(found.of("mark").len(), 1, "{:#?}", found.of("mark"));
        says(&found, level, words);
        world.sh("nft flush ruleset; ip rule flush; ip rule add pref 32766 lookup main");
    }
}
