//! Who identities are, as clusters tell it.

use anyhow::{Context, Result};

use crate::model::identity::Identity;
use crate::ops::detach;
use crate::program::load::{self, Sizes};
pub use crate::state::id_labels::cut;
use crate::state::id_labels::{self, IdLabels};
use crate::state::pin::Root;

/// An identity with its labels as people read them, or `None` if it is nobody's any more.
pub type LabelChange = (Identity, Option<String>);

/// Writes and forgets labels, each identity once; how many have found no room. The caller holds the root's lock.
pub fn apply(root: &Root, changes: &[LabelChange]) -> Result<usize> {
    let set: Vec<(Identity, &str)> = changes
        .iter()
        .filter_map(|(identity, labels)| Some((*identity, labels.as_deref()?)))
        .collect();
    let applied = match IdLabels::open(root)? {
        None if set.is_empty() => return Ok(0),
        None => make(root),
        Some(labels) => Ok(labels),
    };
    let applied = applied.and_then(|labels| {
        let gone = changes.iter().filter(|(_, labels)| labels.is_none());
        labels.delete(&gone.map(|(identity, _)| *identity).collect::<Vec<_>>())?;
        let without_room = labels.set(&set)?;
        if set.is_empty() && labels.is_empty() {
            detach::remove_unused_root(root)?;
        }
        Ok(without_room)
    });
    detach::leave_nothing_of_a_failure(root, applied)
}

/// Each identity that has labels.
pub fn for_each(root: &Root, each: impl FnMut(Identity, String)) -> Result<()> {
    IdLabels::open(root)?.map_or(Ok(()), |labels| labels.for_each(each))
}

/// The others come first: by these a root is known.
fn make(root: &Root) -> Result<IdLabels> {
    load::create_maps(root, &Sizes::default())?;
    load::create_map(root, id_labels::NAME)?;
    IdLabels::open(root)?.context("the labels of identities are not pinned")
}
