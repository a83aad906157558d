//! STATUS: whether ADD would work, as far as that hangs on nothing of a workload.

use anyhow::Result;

use super::{Birth, Code, Configuration, Error, Root, Version, birth_of, failure, root_of};
use crate::kernel::features;
use crate::model::owner::Owner;
use crate::ops::birth::check_words;
use crate::state::layout;

/// Fails if ADD would. Changes nothing and waits for nobody. It is asked every few seconds, and so the programs of an
/// endpoint are not loaded to see whether they can be.
pub fn check(root: &Root, config: &[u8]) -> Result<(), Error> {
    let config = Configuration::parse(config)?;
    config.version.check_has("STATUS", Version::V1_1_0)?;
    let root = root_of(root, config.bpffs.as_ref());
    let nobody = Owner::try_from(config.network.clone());
    let checked = nobody
        .and_then(|owner| is_ready(&root, &birth_of(owner, &config, vec![config.said.clone()])));
    checked
        .map_err(|error| failure(Code::Unavailable, format!("network {}", config.network), error))
}

fn is_ready(root: &Root, birth: &Birth<'_>) -> Result<()> {
    features::check_bpf()?;
    root.check_bpffs()?;
    if root.path().exists() {
        layout::check(root)?;
    }
    check_words(root, birth)
}
