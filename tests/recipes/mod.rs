//! Tier recipes: what the pages in docs/recipes say to paste is pasted as it stands there, and packets show that it does
//! what they say. Those that need a real runtime are in `runtimes`.

mod ip_rule;
mod moving_from_ufw;
mod nftables;
mod router_with_proxy;
mod tailscale;
mod two_nic_router;

use crate::common::World;
use crate::common::pages::{blocks, paste, paste_all};
use crate::common::world::wait_for;

/// Both addresses of the other end of the uplink.
const OUTSIDE: [&str; 2] = ["198.51.100.1", "2001:db8:100::1"];

/// The uplink eth0, with 198.51.100.2 and 2001:db8:100::2. Behind it is the namespace `outside`, which knows the way to
/// workloads.
fn uplink(world: &World) {
    world.sh(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0
         ip netns add outside
         ip link add eth0 type veth peer name eth0 netns outside
         ip addr add 198.51.100.2/24 dev eth0
         ip addr add 2001:db8:100::2/64 dev eth0 nodad
         ip link set eth0 up
         ip -n outside link set lo up
         ip -n outside addr add 198.51.100.1/24 dev eth0
         ip -n outside addr add 2001:db8:100::1/64 dev eth0 nodad
         ip -n outside link set eth0 up
         ip route add default via 198.51.100.1
         ip -6 route add default via 2001:db8:100::1
         ip -n outside route add 10.0.0.0/8 via 198.51.100.2
         ip -n outside -6 route add fd00::/16 via 2001:db8:100::2",
    );
    let ends = "ip -br link show dev eth0; ip -n outside -br link show dev eth0";
    wait_for("the carrier", || world.sh(ends).matches(" UP ").count() == 2);
}

/// Pastes each block below a heading, unchanged; what they print.
fn paste_section(world: &World, page: &str, heading: &str) -> String {
    let blocks = blocks(page, heading, "sh");
    assert!(!blocks.is_empty(), "nothing to paste below {heading}");
    blocks.iter().map(|block| paste(world, block)).collect()
}

/// The same, going on where a line fails.
fn paste_on(world: &World, page: &str, heading: &str) {
    blocks(page, heading, "sh").iter().for_each(|block| paste_all(world, block));
}

/// That after a page was pasted twice its undo, pasted once, leaves what was there before.
fn twice_is_undone(world: &World, page: &str, headings: &[&str]) {
    let before = state(world);
    for heading in headings.iter().chain(headings).chain(&["## To undo it"]) {
        paste_on(world, page, heading);
    }
    wait_for("what was there before", || state(world) == before);
}

/// What pages change, but for counters.
fn state(world: &World) -> String {
    let shown = world.sh("nft -s list ruleset; ip rule; ip -6 rule
         ip route show table 100 2>/dev/null || true; ip -6 route show table 100 2>/dev/null || true
         ip -br addr; ss -Hltn; sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv4.tcp_fwmark_accept
         find /etc/cilmark /run /usr/local/sbin -xdev -type f 2>/dev/null || true");
    format!("{shown}{:?}", world.pins())
}
