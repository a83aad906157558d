//! What every command gets, and the arguments that more than one has.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use log::warn;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

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
    /// How many descriptors it may have.
    pub descriptors: Descriptors,
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

/// How many descriptors the process might have when it began.
pub struct Descriptors(Option<u64>);

impl Descriptors {
    /// Allows as many as may be: reading a thousand endpoints takes more than a shell allows by default.
    pub fn raise() -> Descriptors {
        let Ok((before, most)) = getrlimit(Resource::RLIMIT_NOFILE) else {
            return Descriptors(None);
        };
        // Fewer will do for fewer endpoints.
        let raised = setrlimit(Resource::RLIMIT_NOFILE, most, most);
        Descriptors(raised.is_ok().then_some(before))
    }

    /// As it was, for a program in the place of this one.
    pub fn restore(&self) -> Result<()> {
        let Some(before) = self.0 else { return Ok(()) };
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, before, most).context("restore the limit of descriptors")
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
