//! What a cluster says of a prefix, in twelve bytes.

use cilmark::model::identity::Identity;

use super::{Number, UNKNOWN};

/// How certain it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// It is said.
    Live,
    /// It was deleted; the next flush takes it away.
    Going,
    /// It is no longer said, but too much would go with it.
    Held,
    /// Whoever has said it was cut off.
    Stale,
    /// Nobody says anything any more, and the ipcache has to be told.
    Nobody,
}

impl State {
    pub(super) const COUNT: usize = 5;
}

/// The claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub identity: u32,
    /// Of what is stale the second in which it goes; else which list it was in, 0 for what was found in the ipcache.
    pub word: u32,
    pub cluster: Number,
    pub state: State,
    flags: u8,
}

/// The prefix has a place among those that have changed.
const CHANGED: u8 = 1;
/// Others say something of the prefix, too.
const MORE: u8 = 2;

impl Claim {
    /// None at all.
    pub(super) const NOBODY: Claim =
        Claim { identity: 0, word: 0, cluster: UNKNOWN, state: State::Nobody, flags: 0 };

    pub(super) fn live(cluster: Number, identity: Identity, mark: u32) -> Claim {
        Claim { identity: identity.0, word: mark, cluster, state: State::Live, flags: 0 }
    }

    pub(super) fn adopted(cluster: Number, identity: Identity) -> Claim {
        Claim::live(cluster, identity, 0)
    }

    /// Whether a cluster has said it and has not taken it back.
    pub(super) fn is_said(&self) -> bool {
        self.state == State::Live && self.cluster != UNKNOWN
    }

    /// Whether it should have been in the list with this mark, and was not. No list has the highest.
    pub(super) fn is_unseen(&self, mark: u32) -> bool {
        let is_of_a_list = mark != u32::MAX;
        matches!(self.state, State::Live | State::Going)
            && if is_of_a_list { self.word != mark } else { self.word == 0 }
    }

    /// Who wins comes first.
    pub(super) fn rank(&self, own: Number) -> impl Ord + use<> {
        let certainty = match self.state {
            State::Live | State::Going if self.cluster != UNKNOWN => 0,
            State::Live | State::Going | State::Held => 1,
            State::Stale => 2,
            State::Nobody => 3,
        };
        (certainty, self.cluster != own, self.cluster)
    }

    pub(super) fn has_more(&self) -> bool {
        self.flags & MORE != 0
    }

    pub(super) fn is_changed(&self) -> bool {
        self.flags & CHANGED != 0
    }

    pub(super) fn with(self, is_changed: bool, has_more: bool) -> Claim {
        let flags = (u8::from(is_changed) * CHANGED) | (u8::from(has_more) * MORE);
        Claim { flags, ..self }
    }
}

const _: () = assert!(size_of::<Claim>() == 12);
