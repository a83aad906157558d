//! Who has made something.

use super::serial::named;
use super::wire::{CM_ORIGIN_CLUSTER, CM_ORIGIN_COMMAND, CM_ORIGIN_FILE, CM_ORIGIN_HOOK};

/// Who has made an endpoint, a rule, a line of the ipcache or the name of an identity, and so may remove it without being
/// asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// An operator, by a command.
    #[default]
    Command,
    /// The file that `apply` reads.
    File,
    /// The hook of a runtime, when a workload was born.
    Hook,
    /// A cluster.
    Cluster,
}

named!(Origin, "origin": Command = "command", File = "file", Hook = "hook", Cluster = "cluster");

impl Origin {
    /// As `enum cm_origin` has it.
    pub fn number(self) -> u8 {
        let number = match self {
            Origin::Command => CM_ORIGIN_COMMAND,
            Origin::File => CM_ORIGIN_FILE,
            Origin::Hook => CM_ORIGIN_HOOK,
            Origin::Cluster => CM_ORIGIN_CLUSTER,
        };
        number as u8
    }

    /// The origin of a number; what a later version has written counts as a command's.
    pub fn of_number(number: u8) -> Origin {
        let origins = Origin::ALL.iter().copied();
        origins.into_iter().find(|origin| origin.number() == number).unwrap_or_default()
    }
}
