//! Files of cilmark-sync.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Writes a file in one step, also if the machine goes down; its directory is made.
pub fn write(path: &Path, text: &[u8]) -> Result<()> {
    let next = path.with_extension("json.new");
    let write = || -> Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut file = fs::File::create(&next)?;
        file.write_all(text)?;
        file.sync_all()?;
        Ok(fs::rename(&next, path)?)
    };
    write().with_context(|| format!("write {}", path.display()))
}
