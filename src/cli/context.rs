//! What every command gets, and the arguments that more than one has.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use log::warn;

use crate::model::endpoint::Selector;
use crate::model::identity::Names;
use crate::model::text;
use crate::ops::{self, identities, targets};
use crate::state::pin::Root;
use crate::state::registry::{Found, shared};

/// What every command gets.
pub struct Context {
    /// Where everything is pinned.
    pub root: Root,
    /// Data is printed as JSON.
    pub json: bool,
    /// Of `--netns`, where the process is now: what is elsewhere is left alone.
    pub netns: Option<u64>,
}

impl Context {
    /// The names of identities; only the reserved ones where nobody has declared any.
    pub fn names(&self) -> Result<Names> {
        identities::names(&self.root)
    }

    /// All endpoints; with `--netns`, those there.
    pub fn endpoints(&self) -> Result<Found> {
        targets::all(&self.root, self.netns)
    }

    /// Those that commands name, and perhaps some more; with `--netns`, those there.
    pub fn named(&self, selectors: &[Selector]) -> Result<Found> {
        targets::named(&self.root, self.netns, selectors)
    }

    /// Pins again what has lost its pin, for a command that reads it. Where it can't be done, what is there
    /// is read all the same.
    pub fn repair(&self) {
        if let Err(error) =
            ops::lock(&self.root).and_then(|_lock| shared::check_all_held(&self.root))
        {
            warn!("{error:#}");
        }
    }
}

/// The root that an argument names.
pub fn parse_root(path: PathBuf) -> Result<Root> {
    let path = path_of(path);
    ensure!(path.is_absolute(), "not an absolute path");
    Ok(Root::new(path))
}

/// The path that an argument names.
pub fn path_of(argument: PathBuf) -> PathBuf {
    match argument.to_str() {
        Some(text) => OsString::from_vec(text::to_bytes(text)).into(),
        None => argument,
    }
}
