//! How an endpoint came about that the hook of a runtime has attached.

use serde::{Deserialize, Serialize};

use super::owner::Owner;
use super::serial::{is_default, named};

/// By which of its hooks a runtime tells of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// The Container Network Interface.
    Cni,
    /// A hook of the OCI runtime specification.
    Oci,
    /// libvirt's hook for domains of QEMU.
    Libvirt,
    /// LXC's scripts of a network.
    Lxc,
}

named!(Hook, "hook": Cni = "cni", Oci = "oci", Libvirt = "libvirt", Lxc = "lxc");

impl Hook {
    /// Whether both name the same workloads the same: one container may be known to CNI and OCI.
    pub fn shares_owners_with(self, other: Hook) -> bool {
        let are_containers = |hook| matches!(hook, Hook::Cni | Hook::Oci);
        self == other || are_containers(self) && are_containers(other)
    }
}

/// How an endpoint came about that a hook has attached; kept with its spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Birth {
    /// The hook.
    pub hook: Hook,
    /// Whose hook it is, such as `docker`; the hook's name if nobody tells.
    pub runtime: String,
    /// The network by CNI's configuration.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: Option<String>,
    /// The directory of the container's bundle: runtimes that know nothing of each other may give two containers one name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bundle: Option<String>,
    /// What the device is called inside.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ifname: Option<String>,
    /// Who has said the identity.
    pub id_from: String,
    /// Who has said the rules, if anybody has.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rules_from: Option<String>,
    /// Others that are in the same network namespace: the endpoint goes with the last of them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sharers: Vec<Owner>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_the_same_to_cni_and_oci_and_no_others() {
        for (one, other, is_same) in [
            (Hook::Cni, Hook::Oci, true),
            (Hook::Lxc, Hook::Lxc, true),
            (Hook::Lxc, Hook::Libvirt, false),
            (Hook::Oci, Hook::Lxc, false),
        ] {
            assert_eq!(one.shares_owners_with(other), is_same);
            assert_eq!(other.shares_owners_with(one), is_same);
        }
    }
}
