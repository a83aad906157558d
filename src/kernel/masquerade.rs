//! How long the kernel keeps what it masquerades, by the settings of its own conntrack
//! (Documentation/networking/nf_conntrack-sysctl.rst): our entries have to end before.

use std::fs;

use crate::kernel::abi::{cm_ct_age, cm_ct_lifetime};

/// Seconds, by `enum cm_ct_age`.
pub type Lifetimes = [u32; cm_ct_age::CM_CT_AGES.0 as usize];

/// Ours, and the timeouts of the kernel that may count for such a flow, with what they are as long as nobody has
/// loaded nf_conntrack.
type Row = (cm_ct_age, cm_ct_lifetime, &'static [(&'static str, u32)]);

const TIMEOUTS: [Row; 6] = [
    (
        cm_ct_age::CM_CT_AGE_SYN,
        cm_ct_lifetime::CM_CT_LIFETIME_SYN,
        &[("tcp_timeout_syn_sent", 120), ("tcp_timeout_syn_recv", 60)],
    ),
    (
        cm_ct_age::CM_CT_AGE_ESTABLISHED,
        cm_ct_lifetime::CM_CT_LIFETIME_ESTABLISHED,
        &[("tcp_timeout_established", 432_000)],
    ),
    (
        cm_ct_age::CM_CT_AGE_CLOSING,
        cm_ct_lifetime::CM_CT_LIFETIME_CLOSING,
        &[("tcp_timeout_close", 10), ("tcp_timeout_last_ack", 30), ("tcp_timeout_time_wait", 120)],
    ),
    (cm_ct_age::CM_CT_AGE_UDP, cm_ct_lifetime::CM_CT_LIFETIME_UDP, &[("udp_timeout", 30)]),
    (
        cm_ct_age::CM_CT_AGE_UDP_STREAM,
        cm_ct_lifetime::CM_CT_LIFETIME_UDP_STREAM,
        &[("udp_timeout_stream", 120)],
    ),
    (
        cm_ct_age::CM_CT_AGE_OTHER,
        cm_ct_lifetime::CM_CT_LIFETIME_OTHER,
        &[
            ("generic_timeout", 600),
            ("icmp_timeout", 30),
            ("icmpv6_timeout", 30),
            ("gre_timeout", 30),
        ],
    ),
];

/// Those of the calling thread's network namespace.
pub fn lifetimes() -> Lifetimes {
    below(|name, otherwise| {
        let value = fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
        value.ok().and_then(|value| value.trim().parse().ok()).unwrap_or(otherwise)
    })
}

/// A sixth less than the shortest, since clocks differ in what they round, and no longer than ours.
fn below(timeout: impl Fn(&str, u32) -> u32) -> Lifetimes {
    let mut lifetimes = Lifetimes::default();
    for (age, ours, names) in TIMEOUTS {
        let kernels = names.iter().map(|(name, otherwise)| timeout(name, *otherwise)).min();
        let kernels = kernels.unwrap_or(0);
        lifetimes[age.0 as usize] = ours.0.min(kernels - kernels.div_ceil(6));
    }
    lifetimes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_ends_before_the_kernels_whatever_its_settings() {
        let of_defaults = below(|_, otherwise| otherwise);
        assert_eq!(of_defaults, [50, 21600, 8, 25, 100, 25]);
        for seconds in [0, 1, 2, 5, 30, 100_000] {
            for (lifetime, (_, ours, _)) in below(|_, _| seconds).into_iter().zip(TIMEOUTS) {
                assert!(lifetime <= ours.0 && (lifetime < seconds || seconds == 0), "{seconds}");
            }
        }
    }
}
