//! Software that is known to use the mark of packets: by what it is known, which bits are its own, what helps beside it.

use super::ruleset::{Action, Chain, Rule, Step, Test};
use super::value::Value;

/// What a software's rules look like.
#[derive(Debug)]
pub struct Layout {
    /// What it is called.
    pub name: &'static str,
    /// How the names of its chains begin.
    chains: &'static [&'static str],
    /// How the names of its tables begin.
    tables: &'static [&'static str],
    /// Its rules of `ip rule`: mark and mask.
    ip_rules: &'static [(u32, u32)],
    /// The priorities of those, where they are always these: the first and the last.
    priorities: Option<(u32, u32)>,
    /// Masks with which it sets, saves or restores marks in the chains of others.
    masks: &'static [u32],
    /// Which bits it uses, and for what.
    pub uses: &'static str,
    /// What can be changed there.
    pub cure: Option<&'static str>,
    /// Its rules know marks of identities: they mean them, or write others of the same layout on packets that are no
    /// identity's any more.
    pub knows_identities: bool,
}

/// A rule of `ip rule` that asks for a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routing {
    /// The mark.
    pub mark: u32,
    /// Which bits of it count.
    pub mask: u32,
    /// Its place among the others.
    pub priority: u32,
}

/// In this order: the first that fits counts.
pub const LAYOUTS: [Layout; 10] = [
    // tailscale, util/linuxfw/linuxfw.go, iptables_runner.go (AddConnmarkSaveRule) and
    // wgengine/router/osrouter/router_linux.go: both marks are built in. Rules of `ip rule` 5210, 5230, 5250 and 5270.
    Layout {
        name: "Tailscale",
        chains: &["ts-"],
        tables: &[],
        ip_rules: &[(0x40000, 0xff0000), (0x80000, 0xff0000)],
        priorities: Some((5200, 5299)),
        masks: &[0xff0000],
        uses: "bits 16 to 23: 0x40000 for what comes from its network, 0x80000 for its own packets",
        cure: None,
        knows_identities: false,
    },
    // projectcalico/calico, felix/config/config_params.go: IptablesMarkMask, 0xffff0000 unless it is set; chains `cali-…`
    // and, by nftables, tables `calico`.
    Layout {
        name: "Calico",
        chains: &["cali-"],
        tables: &["calico"],
        ip_rules: &[],
        priorities: None,
        masks: &[],
        uses: "bits 16 to 31, unless its IptablesMarkMask says otherwise",
        cure: Some("Calico's bits are those of IptablesMarkMask in its FelixConfiguration"),
        knows_identities: false,
    },
    // aws/amazon-vpc-cni-k8s, pkg/networkutils/network.go: defaultConnmark 0x80, chains AWS-CONNMARK-CHAIN-… and
    // AWS-SNAT-CHAIN-…; by nftables the table `aws-cni`. AWS_VPC_K8S_CNI_CONNMARK names another mark.
    Layout {
        name: "AWS VPC CNI",
        chains: &["AWS-CONNMARK-CHAIN", "AWS-SNAT-CHAIN"],
        tables: &["aws-cni"],
        ip_rules: &[(0x80, 0x80)],
        priorities: None,
        masks: &[0x80],
        uses: "bit 7 (0x80), for what comes back by the first interface",
        cure: Some("AWS_VPC_K8S_CNI_CONNMARK gives it another bit, such as 4096 (0x1000)"),
        knows_identities: false,
    },
    // kubernetes, pkg/proxy/apis/config: iptables.masqueradeBit 14, which is 0x4000; pkg/kubelet once had
    // iptablesDropBit 15, 0x8000. Chains KUBE-…; by nftables the table `kube-proxy`.
    Layout {
        name: "kube-proxy",
        chains: &["KUBE-"],
        tables: &["kube-proxy"],
        ip_rules: &[],
        priorities: None,
        masks: &[],
        uses: "0x4000, for what is to be masqueraded, and, in old versions, 0x8000, for what is to be dropped",
        cure: Some(
            "its bit is that of masqueradeBit in its configuration: 12 to 15 are free of identities",
        ),
        knows_identities: false,
    },
    // containernetworking/plugins, plugins/meta/portmap: markMasqBit 13, which is 0x2000; by nftables `cni_hostport`.
    Layout {
        name: "the CNI plugin portmap",
        chains: &["CNI-HOSTPORT-", "CNI-DN-"],
        tables: &["cni_hostport"],
        ip_rules: &[],
        priorities: None,
        masks: &[],
        uses: "0x2000, for what is to be masqueraded",
        cure: Some(
            "its bit is that of markMasqBit in its configuration: 12 to 15 are free of identities",
        ),
        knows_identities: false,
    },
    // containers/netavark, src/firewall/nft.rs (MASK) and src/network/…/iptables.rs (HEXMARK): 0x2000.
    Layout {
        name: "netavark (Podman)",
        chains: &["NETAVARK-", "NETAVARK_"],
        tables: &["netavark"],
        ip_rules: &[],
        priorities: None,
        masks: &[],
        uses: "0x2000, for what is to be masqueraded",
        cure: None,
        knows_identities: false,
    },
    // siderolabs/talos, pkg/machinery/constants: KubeSpanDefaultFirewallMark 0x20, …ForceFirewallMark 0x40, …Mask 0x60.
    Layout {
        name: "Talos KubeSpan",
        chains: &["kubespan_"],
        tables: &[],
        ip_rules: &[(0x40, 0x60), (0x20, 0x60)],
        priorities: None,
        masks: &[0x60],
        uses: "bits 5 and 6: 0x20 for its own packets, 0x40 for what it sends by WireGuard",
        cure: None,
        knows_identities: false,
    },
    // openwrt/packages, net/mwan3: mmx_mask 0x3F00; chains mwan3_….
    Layout {
        name: "mwan3",
        chains: &["mwan3_"],
        tables: &[],
        ip_rules: &[],
        priorities: None,
        masks: &[0x3f00],
        uses: "bits 8 to 13 (mmx_mask 0x3F00), of which 8 to 11 say that a mark is an identity's",
        cure: Some(
            "option mmx_mask in the section `globals` of /etc/config/mwan3 gives it others, of which 12 to 15 are free of identities",
        ),
        knows_identities: false,
    },
    // wireguard-tools, src/wg-quick/linux.bash: the mark is the number of a routing table, 51820 (0xca6c) or the next
    // that is free, without a mask; tables wg-quick-…, or rules with this comment; UDP's mark is saved and restored whole.
    Layout {
        name: "wg-quick",
        chains: &[],
        tables: &["wg-quick-"],
        ip_rules: &[(0xca6c, u32::MAX)],
        priorities: None,
        masks: &[],
        uses: "the whole mark: 51820 (0xca6c) or a number behind it on its own packets, and every UDP packet gets the mark of its connection",
        cure: Some("with `Table = off`, and routes of your own, it makes no such rules"),
        knows_identities: false,
    },
    // cilium/cilium, pkg/datapath/linux/linux_defaults and pkg/datapath/iptables/iptables.go: the layout that cilmark's
    // mark is taken from; TO_PROXY 0x200/0xf00 in `ip rule`. Its chains are these, and what else begins with CILIUM_ is
    // not its own.
    Layout {
        name: "Cilium",
        chains: &["CILIUM_PRE_", "CILIUM_POST", "CILIUM_INPUT", "CILIUM_OUTPUT", "CILIUM_FORWARD"],
        tables: &[],
        ip_rules: &[(0x200, 0xf00), (0xd00, 0xf00), (0xe00, 0xf00)],
        priorities: None,
        masks: &[],
        uses: "the layout that cilmark has, too: its agent takes identities of cilmark for its own",
        cure: None,
        knows_identities: true,
    },
];

impl Layout {
    /// Whether a chain is one of its own.
    fn has(&self, chain: &Chain) -> bool {
        let begins = |starts: &[&str], name: &str| starts.iter().any(|it| name.starts_with(it));
        begins(self.chains, &chain.name)
            || chain.table.tool == "nft" && begins(self.tables, &chain.table.name)
    }

    /// Whether a rule of another's chain is its: it goes to a chain of its own, tells so, or uses its mask where it
    /// is on this host (`is_here`).
    fn has_rule(&self, chain: &Chain, rule: &Rule, is_here: bool) -> bool {
        let goes = |name: &str| self.chains.iter().any(|start| name.starts_with(start));
        let jumps = rule.actions().any(|it| match it {
            Action::Jump(name) | Action::Goto(name) => goes(name),
            _ => false,
        });
        let says = self.name == "wg-quick" && rule.text.contains("wg-quick(8) rule for");
        self.has(chain)
            || jumps
            || says
            || is_here && masks(rule).any(|it| self.masks.contains(&it))
    }

    /// Whether a rule of `ip rule` is its.
    fn has_ip_rule(&self, rule: Routing) -> bool {
        self.ip_rules.contains(&(rule.mark, rule.mask))
            && self.priorities.is_none_or(|(first, last)| (first..=last).contains(&rule.priority))
    }

    /// Whether one is its, where it is on this host.
    pub fn has_ip_rule_here(&self, rule: Routing) -> bool {
        self.has_ip_rule(rule) || self.masks.contains(&rule.mask)
    }

    /// Whether it is on a host with these chains and rules of `ip rule`.
    pub fn is_here(&self, chains: &[Chain], ip_rules: &[Routing]) -> bool {
        let says = |chain: &Chain| chain.rules.iter().any(|it| self.has_rule(chain, it, false));
        chains.iter().any(|it| self.has(it) || says(it))
            || ip_rules.iter().any(|rule| self.has_ip_rule(*rule))
    }

    /// Whose a rule is, of those that are on the host.
    pub fn of_rule(
        here: &[&'static Layout],
        chain: &Chain,
        rule: &Rule,
    ) -> Option<&'static Layout> {
        here.iter().find(|it| it.has_rule(chain, rule, true)).copied()
    }
}

/// With which masks a rule looks at marks and writes them.
fn masks(rule: &Rule) -> impl Iterator<Item = u32> {
    rule.steps.iter().filter_map(|step| match step {
        Step::Test(Test::Number { value, .. }) => Some(value.looked_at()),
        Step::Act(Action::SetMark(value)) => Some(value.writes(&Value::Mark)),
        Step::Act(Action::SetConnMark(value)) => Some(value.writes(&Value::ConnMark)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::marks::iptables;

    fn of(rule: &str, ip_rules: &[(u32, u32, u32)]) -> Vec<&'static str> {
        let routing = |(priority, mark, mask): &(u32, u32, u32)| Routing {
            mark: *mark,
            mask: *mask,
            priority: *priority,
        };
        let ip_rules: Vec<Routing> = ip_rules.iter().map(routing).collect();
        let chains = ["PREROUTING", "ts-forward", "KUBE-MARK-MASQ", "mine"]
            .map(|chain| format!(":{chain} - [0:0]\n"))
            .concat();
        let chains = iptables::parse("iptables", &format!("*mangle\n{chains}{rule}\n")).unwrap();
        let with_rules: Vec<Chain> =
            chains.into_iter().filter(|chain| !chain.rules.is_empty()).collect();
        let here: Vec<&Layout> =
            LAYOUTS.iter().filter(|it| it.is_here(&with_rules, &ip_rules)).collect();
        let rules =
            with_rules.iter().flat_map(|chain| chain.rules.iter().map(move |it| (chain, it)));
        rules
            .filter_map(|(chain, it)| Layout::of_rule(&here, chain, it))
            .map(|it| it.name)
            .collect()
    }

    #[test]
    fn a_layout_is_known_by_its_chains_its_rules_and_then_by_its_masks() {
        let set = "-j MARK --set-xmark 0x40000/0xff0000";
        assert_eq!(of(&format!("-A ts-forward {set}"), &[]), ["Tailscale"]);
        assert_eq!(of(&format!("-A mine {set}"), &[]), [""; 0], "anybody may take these bits");
        let restore =
            "-A PREROUTING -j CONNMARK --restore-mark --nfmask 0xff0000 --ctmask 0xff0000";
        assert_eq!(of(restore, &[(5210, 0x80000, 0xff0000)]), ["Tailscale"]);
        assert_eq!(of(restore, &[(100, 0x80000, 0xff0000)]), [""; 0], "not where its rules are");
        assert_eq!(of(restore, &[(1024, 0x80, 0x80)]), [""; 0]);
        assert_eq!(of("-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000", &[]), ["kube-proxy"]);
        assert_eq!(of("-A PREROUTING -j KUBE-MARK-MASQ", &[]), ["kube-proxy"]);
        let restored = r#"-A PREROUTING -p udp -m comment --comment "wg-quick(8) rule for wg0" -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"#;
        assert_eq!(of(restored, &[]), ["wg-quick"]);
    }

    #[test]
    fn layouts_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = LAYOUTS.iter().map(|it| it.name).collect();
        assert_eq!(names.len(), LAYOUTS.len());
    }
}
