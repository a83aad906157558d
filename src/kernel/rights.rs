//! What this thread may do (capabilities(7)).

use std::fs;

use anyhow::{Context as _, Result};

/// What cilmark takes, with the bits of include/uapi/linux/capability.h. CAP_BPF and CAP_PERFMON are parts of
/// CAP_SYS_ADMIN, and not enough: programs and maps are opened by number, and namespaces entered.
const NEEDED: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

/// The capabilities that cilmark needs and this thread has not.
pub fn missing() -> Result<Vec<&'static str>> {
    let path = "/proc/thread-self/status";
    let status = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let effective = effective(&status).with_context(|| format!("{path} has no CapEff"))?;
    let lacks = |(bit, _): &&(u32, &str)| effective >> bit & 1 == 0;
    Ok(NEEDED.iter().filter(lacks).map(|(_, name)| *name).collect())
}

/// `CapEff`, in hexadecimal.
fn effective(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_in_effect_count_and_not_those_that_could_be() {
        let status = "Name:\tcat\nCapInh:\t0000000000000000\nCapPrm:\t000001ffffffffff\n\
                      CapEff:\t0000000000201000\nCapBnd:\t000001ffffffffff\n";
        assert_eq!(effective(status), Some(1 << 12 | 1 << 21));
        assert_eq!(effective("Name:\tcat\n"), None);
    }
}
