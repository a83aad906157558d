//! Names for identities.

use anyhow::{Context, Result, ensure};

use super::detach;
use crate::model::identity::Identity;
use crate::model::origin::Origin;
use crate::program::load::{self, Sizes};
use crate::state::maps::Identities;
pub use crate::state::maps::names;
use crate::state::pin::Root;

/// Names an identity.
pub fn set(root: &Root, identity: Identity, name: &str) -> Result<()> {
    let open = || Identities::open(root)?.context("no identity has a declared name");
    let set = load::create_maps(root, &Sizes::default())
        .and_then(|()| open()?.set(identity, name, Origin::Command));
    detach::leave_nothing_of_a_failure(root, set)
}

/// Forgets the name of an identity.
pub fn delete(root: &Root, identity: Identity) -> Result<()> {
    let was_there =
        Identities::open(root)?.map(|identities| identities.delete(identity)).transpose()?;
    ensure!(
        was_there == Some(true),
        "identity {identity} has no declared name; `cilmark identity list` shows those that have"
    );
    detach::remove_unused_root(root)
}
