//! What cilmark-sync shares with commands: where both find it, and what it writes into the maps.

pub mod endpoints;
pub mod files;
pub mod labels;
pub mod lines;
pub mod memory;
pub mod number;
pub mod renumber;

use std::path::{Path, PathBuf};

use crate::state::pin::Root;

/// The root that needs no name in a path.
const USUAL_ROOT: &str = "/sys/fs/bpf/cilmark";

/// Where the socket and the state of cilmark-sync of a root are, until the host goes down.
pub fn run_directory(root: &Root) -> PathBuf {
    of_root(Path::new("/run/cilmark"), root)
}

/// Where it keeps what outlives the host's going down.
pub fn state_directory(root: &Root) -> PathBuf {
    of_root(Path::new("/var/lib/cilmark"), root)
}

/// Another root has a directory of its own: `/sys/fs/bpf/one` is `sys-fs-bpf-one`.
fn of_root(directory: &Path, root: &Root) -> PathBuf {
    match root.path() {
        usual if usual == Path::new(USUAL_ROOT) => directory.to_owned(),
        other => directory.join(other.to_string_lossy().trim_start_matches('/').replace('/', "-")),
    }
}
