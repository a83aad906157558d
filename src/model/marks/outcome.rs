//! What a rule of another's comes to for an identity.

use std::fmt;

use crate::model::identity::Identity;
use crate::model::mark::{Magic, Mark};

use super::walk::Does;

/// What becomes of an identity's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Becomes {
    /// Another identity's.
    Identity(Identity),
    /// No identity's any more.
    Nobody,
    /// It depends on the packet, or on more than can be read.
    Something,
}

impl Becomes {
    /// What a rule sets; `None` if it sets nothing.
    pub fn of(does: Does) -> Option<Becomes> {
        let Does::Sets { value, known, .. } = does else { return None };
        if known | Mark::NOT_OURS != u32::MAX {
            return Some(Becomes::Something);
        }
        Some(Becomes::of_mark(Mark(value)))
    }

    /// What a mark says.
    pub fn of_mark(mark: Mark) -> Becomes {
        match (mark.magic(), mark.identity()) {
            (Some(Magic::Identity), Some(identity)) => Becomes::Identity(identity),
            _ => Becomes::Nobody,
        }
    }
}

/// Which identities have marks with these bits under this mask, in words; `None` if none does, or all do.
pub fn identities_with(mark: u32, mask: u32) -> Option<String> {
    const MAGIC: u32 = Mark::MAGIC_OF_IDENTITY;
    let number = |bits: u32| (bits >> 16) | (bits & 0xff) << 16;
    if (mark ^ MAGIC) & mask & MAGIC != 0 || mark & mask & Mark::NOT_OURS != 0 {
        return None;
    }
    let mask = number(mask & 0xffff_00ff);
    let value = number(mark) & mask;
    match mask {
        0 => None,
        0xff_ffff => Some(format!("{value}")),
        0xff => Some(format!("those whose low byte is {value}")),
        mask => Some(format!("those with {mask:#x} of which {value:#x} is set")),
    }
}

impl fmt::Display for Becomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Becomes::Identity(identity) => identity.fmt(f),
            Becomes::Nobody => f.write_str("nobody's"),
            Becomes::Something => f.write_str("something that depends on the packet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::marks::walk::Of;

    #[test]
    fn a_mark_that_is_written_to_is_another_identity_s_or_nobody_s() {
        let becomes = |value, known| Becomes::of(Does::Sets { value, known, of: Of::All });
        for (value, becomes_it) in [
            (0x0404_0f00, Becomes::Identity(Identity(1028))),
            (0, Becomes::Nobody),
            (0x04d2_0c00, Becomes::Nobody),
            (0xca6c, Becomes::Nobody),
        ] {
            assert_eq!(becomes(value, u32::MAX), Some(becomes_it), "{value:#x}");
        }
        assert_eq!(becomes(0, 0xffff_00ff), Some(Becomes::Something));
        assert_eq!(
            becomes(0x04d2_0f00, !Mark::NOT_OURS),
            Some(Becomes::Identity(Identity(1234))),
            "bits 12 to 15 are nobody's"
        );
        assert_eq!(Becomes::of(Does::TellsApart { is_meant: false, is_taken: true }), None);
    }

    #[test]
    fn identities_are_named_by_the_bits_that_they_have() {
        for (mark, mask, words) in [
            (0x40000, 0xff0000, Some("those whose low byte is 4")),
            (0x80, 0x80, Some("those with 0x800000 of which 0x800000 is set")),
            (0x20, 0x60, Some("those with 0x600000 of which 0x200000 is set")),
            (0x04d2_0f00, 0xffff_0fff, Some("1234")),
            (0x4000, 0x4000, None),
            (0xca6c, u32::MAX, None),
            (0x200, 0xf00, None),
            (0xf00, 0xf00, None),
        ] {
            assert_eq!(identities_with(mark, mask).as_deref(), words, "{mark:#x}/{mask:#x}");
        }
    }
}
