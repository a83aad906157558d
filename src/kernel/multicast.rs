//! Who has joined which group of IPv4.

use std::fs;
use std::net::Ipv4Addr;

/// The names of the devices of the calling thread's network namespace on which somebody has joined a group. What can't be
/// read has none.
pub fn members(group: Ipv4Addr) -> Vec<String> {
    // Of the thread: the process may be in another namespace.
    let table = fs::read_to_string("/proc/thread-self/net/igmp").unwrap_or_default();
    members_of(&table, group)
}

/// A line of each device, `2 eth0 : 1 V3`, and below it one of each group, with the bytes of its address as a word of the
/// CPU (`igmp_mc_seq_show()` in net/ipv4/igmp.c).
fn members_of(table: &str, group: Ipv4Addr) -> Vec<String> {
    let word = format!("{:08X}", u32::from_ne_bytes(group.octets()));
    let (mut device, mut found) = ("", Vec::new());
    for line in table.lines().skip(1) {
        let mut fields = line.split_whitespace();
        match fields.next() {
            Some(first) if line.starts_with('\t') => {
                if first == word {
                    found.push(device.to_owned());
                }
            }
            _ => device = fields.next().unwrap_or_default().trim_end_matches(':'),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_of_the_device_above_them() {
        let word = |group: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(group));
        let (all, routers) = (word([224, 0, 0, 1]), word([224, 0, 0, 18]));
        let table = format!(
            "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
             1\tlo        :     1      V3\n\t\t\t\t{all}     1 0:00000000\t\t0\n\
             2\teth0      :     2      V3\n\t\t\t\t{routers}     1 0:00000000\t\t0\n\
             \t\t\t\t{all}     1 0:00000000\t\t0\n\
             3\ta-long-name-of-it:     1      V3\n\t\t\t\t{routers}     1 0:00000000\t\t0\n"
        );
        let members = |group: [u8; 4]| members_of(&table, Ipv4Addr::from(group));
        assert_eq!(members([224, 0, 0, 18]), ["eth0", "a-long-name-of-it"]);
        assert_eq!(members([224, 0, 0, 1]), ["lo", "eth0"]);
        assert!(members([224, 0, 0, 5]).is_empty());
    }
}
