//! Names of clusters (Cilium pkg/clustermesh/types/types.go).

use anyhow::{Result, ensure};

/// The longest.
const LONGEST: usize = 32;

/// Fails for what Cilium does not take for a cluster's name.
pub fn check(name: &str) -> Result<()> {
    let are_allowed =
        name.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-');
    ensure!(
        (1..=LONGEST).contains(&name.len())
            && are_allowed
            && !name.starts_with('-')
            && !name.ends_with('-'),
        "`{name}` is no name of a cluster: it takes 1 to {LONGEST} of a-z, 0-9 and -, and no - at its ends"
    );
    ensure!(
        name != "default",
        "cluster `default` is Cilium's name for one without a number, which no other reads: take another name"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_cilium_takes() {
        for name in ["a", "edge", "edge-1", "0", "a-b-c", "12345678901234567890123456789012"] {
            assert!(check(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "Edge", "a.b", "a_b", "a b", "ä", "a/b", "default"] {
            assert!(check(name).is_err(), "{name}");
        }
        assert!(check(&"a".repeat(33)).is_err());
    }
}
