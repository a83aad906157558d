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

/// All who have made the same thing. It stays as long as one of them wants it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origins(u8);

impl Origins {
    /// Nobody.
    pub const NONE: Origins = Origins(0);

    /// Of a byte with a bit for each; other bits are left out.
    pub fn from_bits(bits: u8) -> Origins {
        let all = Origin::ALL.iter().fold(0, |all, origin| all | bit(*origin));
        Origins(bits & all)
    }

    /// A bit for each: `1 << enum cm_origin`.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Whether this is one of them.
    pub fn contain(self, origin: Origin) -> bool {
        self.0 & bit(origin) != 0
    }

    /// With this one.
    pub fn with(self, origin: Origin) -> Origins {
        Origins(self.0 | bit(origin))
    }

    /// Without this one.
    pub fn without(self, origin: Origin) -> Origins {
        Origins(self.0 & !bit(origin))
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Origin> {
        Origin::ALL.iter().copied().filter(move |origin| self.contain(*origin))
    }
}

impl From<Origin> for Origins {
    fn from(origin: Origin) -> Origins {
        Origins::NONE.with(origin)
    }
}

fn bit(origin: Origin) -> u8 {
    1 << origin.number()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_come_and_go_one_by_one() {
        let both = Origins::from(Origin::File).with(Origin::Command);
        assert_eq!(both.iter().collect::<Vec<_>>(), [Origin::Command, Origin::File]);
        assert_eq!(both.without(Origin::File), Origin::Command.into());
        assert_eq!(both.without(Origin::File).without(Origin::Command), Origins::NONE);
        assert_eq!(Origins::from_bits(both.bits() | 0x80), both);
    }
}
