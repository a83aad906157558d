//! Names for identities.

use anyhow::{Context, Result, ensure};

use super::detach;
use crate::model::identity::{Identity, Names};
use crate::model::origin::Origin;
use crate::program::load::{self, Sizes};
use crate::state::id_labels::IdLabels;
use crate::state::maps::{self, Identities};
use crate::state::pin::Root;

/// The names of identities, and who they are as clusters tell it; only the reserved ones where nobody has said anything.
pub fn names(root: &Root) -> Result<Names> {
    let names = maps::names(root)?;
    Ok(match IdLabels::open(root)? {
        Some(labels) => names.with_labels(labels.reader()),
        None => names,
    })
}

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
