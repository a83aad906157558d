//! What is compared: the same policy for the same addresses, by each of the setups.
//!
//! Every setup but `nothing` marks by source address. All but that and `tc` let nothing through but
//! TCP and UDP to ports 5000 to 5999 from workload `a` to workload `b`, and what answers it.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use cilmark::kernel::device;
use cilmark::model::identity::Identity;
use cilmark::model::mark::Mark;
use libbpf_rs::{MapCore, MapFlags, ObjectBuilder, TC_INGRESS, TcHookBuilder};

use super::topology::{A, B, Topology};
use crate::world::{compile_bpf, run};

const IDENTITY_A: u32 = 1234;
const IDENTITY_B: u32 = 1235;
/// Of the addresses that nobody here has.
const FIRST_IDENTITY: u32 = 2000;

/// Who decides about what the router forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    Nothing,
    Cilmark,
    LocalDelivery,
    Nftables,
    Iptables,
    Tc,
}

impl Setup {
    pub const ALL: [Setup; 6] = [
        Setup::Nothing,
        Setup::Cilmark,
        Setup::LocalDelivery,
        Setup::Nftables,
        Setup::Iptables,
        Setup::Tc,
    ];

    /// As the table names it.
    pub fn name(self) -> &'static str {
        match self {
            Setup::Nothing => "nothing",
            Setup::Cilmark => "cilmark",
            Setup::LocalDelivery => "local delivery",
            Setup::Nftables => "nftables",
            Setup::Iptables => "iptables, ipset",
            Setup::Tc => "tc, bpf filter",
        }
    }

    /// Whether it has a policy, or only marks at most.
    pub fn filters(self) -> bool {
        !matches!(self, Setup::Nothing | Setup::Tc)
    }

    /// Whether it takes what a machine may lack, such as modules of the kernel.
    pub fn is_of_others(self) -> bool {
        matches!(self, Setup::Nftables | Setup::Iptables | Setup::Tc)
    }

    /// Puts it into the router of a topology.
    pub fn install(self, topology: &Topology) -> Result<()> {
        match self {
            Setup::Nothing => Ok(()),
            Setup::Cilmark => cilmark(topology, ""),
            Setup::LocalDelivery => cilmark(topology, " --local-delivery"),
            Setup::Nftables => nftables(topology),
            Setup::Iptables => iptables(topology),
            Setup::Tc => tc(topology),
        }
        .with_context(|| format!("set up {} with {} addresses", self.name(), topology.size))
    }
}

/// As many addresses of a family as a topology is to know, with their identities: those of the two
/// workloads, and others.
fn addresses(size: u32, family: usize) -> Result<Vec<(IpAddr, Identity)>> {
    let mut all = vec![
        (A[family].parse()?, Identity(IDENTITY_A)),
        (B[family].parse()?, Identity(IDENTITY_B)),
    ];
    all.extend((0..size - 2).map(|number| {
        let address = match family {
            0 => IpAddr::from((0x0a40_0000 + number).to_be_bytes()),
            _ => IpAddr::from((0xfd00_0040_u128 << 96 | u128::from(number)).to_be_bytes()),
        };
        (address, Identity(FIRST_IDENTITY + number))
    }));
    Ok(all)
}

/// Writes a file that a command is to read; it goes with the private `/run`.
fn file(topology: &Topology, name: &str, text: &str) -> Result<PathBuf> {
    let path = PathBuf::from(format!("/run/{}-{name}", topology.router));
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Both veths are containers that enforce; the addresses are in the ipcache.
fn cilmark(topology: &Topology, flags: &str) -> Result<()> {
    let mut entries = String::new();
    for (address, identity) in [addresses(topology.size, 0)?, addresses(topology.size, 1)?].concat()
    {
        writeln!(entries, "{address} {}", identity.0)?;
    }
    let entries = file(topology, "ipcache", &entries)?;
    let command =
        format!("{} --bpffs /sys/fs/bpf/{}", env!("CARGO_BIN_EXE_cilmark"), topology.router);
    let on = format!("--netns {}", topology.router);
    let attach = |device: &str, identity: u32, addresses: [&str; 2]| {
        format!(
            "{command} attach {device} {on} --id {identity} --ip {},{} --policy enforce{flags}",
            addresses[0], addresses[1]
        )
    };
    run(&format!(
        "exec 3>&2 >/run/{router}-log 2>&1
        trap '[ $? -eq 0 ] || cat /run/{router}-log >&3' EXIT
        {}
        {}
        {command} ipcache load {}
        {command} policy add va {on} 'allow egress to {IDENTITY_B} tcp/5000-5999' \
            'allow egress to {IDENTITY_B} udp/5000-5999'
        {command} policy add vb {on} 'allow ingress from {IDENTITY_A} tcp/5000-5999' \
            'allow ingress from {IDENTITY_A} udp/5000-5999'",
        attach("va", IDENTITY_A, A),
        attach("vb", IDENTITY_B, B),
        entries.display(),
        router = topology.router,
    ))
}

/// A map of marks and two sets for each family, in a table for each: cheaper than one for both. A size
/// has the kernel take its faster kind of set.
fn nftables(topology: &Topology) -> Result<()> {
    let mut script = String::new();
    for (family, name, kind) in [(0, "ip", "ipv4_addr"), (1, "ip6", "ipv6_addr")] {
        let known = addresses(topology.size, family)?;
        let marks = known.iter().map(|&(address, identity)| {
            Ok(format!("{address} : {:#010x}", Mark::encode(identity)?.0))
        });
        let marks = marks.collect::<Result<Vec<_>>>()?.join(", ");
        let members: Vec<String> = known.iter().map(|(address, _)| address.to_string()).collect();
        let members = members.join(", ");
        write!(
            script,
            "table {name} peers {{
                map marks {{ type {kind} : mark; size {size}; elements = {{ {marks} }}; }}
                set clients {{ type {kind}; size {size}; elements = {{ {members} }}; }}
                set servers {{ type {kind}; size {size}; elements = {{ {members} }}; }}
                chain stamp {{
                    type filter hook prerouting priority mangle;
                    meta mark set {name} saddr map @marks
                }}
                chain police {{
                    type filter hook forward priority filter; policy drop;
                    ct state established,related accept
                    {name} saddr @clients {name} daddr @servers tcp dport 5000-5999 accept
                    {name} saddr @clients {name} daddr @servers udp dport 5000-5999 accept
                }}
            }}\n",
            size = topology.size
        )?;
    }
    let script = file(topology, "nft", &script)?;
    run(&format!("ip netns exec {} nft -f {}", topology.router, script.display()))
}

/// An ipset with a mark for each address gives the mark, and is what the filter looks into.
fn iptables(topology: &Topology) -> Result<()> {
    let mut sets = String::new();
    let mut rules = [String::new(), String::new()];
    for (family, inet) in [(0, "inet"), (1, "inet6")] {
        writeln!(sets, "create peers{family} hash:ip family {inet} skbinfo")?;
        for (address, identity) in addresses(topology.size, family)? {
            let mark = Mark::encode(identity)?.0;
            writeln!(sets, "add peers{family} {address} skbmark {mark:#010x}")?;
        }
        let allow = |protocol: &str| {
            format!(
                "-A FORWARD -p {protocol} --dport 5000:5999 -m set --match-set peers{family} src \
                -m set --match-set peers{family} dst -j ACCEPT"
            )
        };
        write!(
            rules[family],
            "*mangle\n-A PREROUTING -j SET --map-set peers{family} src --map-mark\nCOMMIT\n\
            *filter\n:FORWARD DROP\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
            {}\n{}\nCOMMIT\n",
            allow("tcp"),
            allow("udp")
        )?;
    }
    let sets = file(topology, "ipset", &sets)?;
    let [rules4, rules6] =
        [file(topology, "iptables", &rules[0])?, file(topology, "ip6tables", &rules[1])?];
    run(&format!(
        "exec_in() {{ ip netns exec {} \"$@\"; }}
        exec_in ipset restore -f {}
        exec_in iptables-restore {}
        exec_in ip6tables-restore {}",
        topology.router,
        sets.display(),
        rules4.display(),
        rules6.display()
    ))
}

/// A filter of both veths that marks, in direct action: it takes no action module. What `tc filter add
/// ... bpf da` does; that itself would look for the program in a BPF file system of its own.
fn tc(topology: &Topology) -> Result<()> {
    let bytes = compile_bpf("benches/peers/mark.bpf.c")?;
    Topology::inside(&topology.router, || {
        let object = ObjectBuilder::default().open_memory(&bytes)?.load()?;
        let marks = object.maps().find(|map| map.name() == "marks").context("no map of marks")?;
        for (address, identity) in
            [addresses(topology.size, 0)?, addresses(topology.size, 1)?].concat()
        {
            let key = match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            marks.update(&key, &Mark::encode(identity)?.0.to_ne_bytes(), MapFlags::ANY)?;
        }
        let program = object.progs().next().context("no program")?;
        for name in ["va", "vb"] {
            let device = device::by_name(name)?.ifindex as i32;
            let mut filter = TcHookBuilder::new(program.as_fd()).ifindex(device).hook(TC_INGRESS);
            filter.create()?.attach()?;
        }
        Ok(())
    })
}
