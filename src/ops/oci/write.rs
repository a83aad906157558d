//! Files of others that are changed: all at once, with their owner and their mode.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::process;

use anyhow::{Context as _, Result};

/// Writes a file whose folder is there. A link to it stays one.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let target = fs::canonicalize(path).unwrap_or(path.to_owned());
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let beside = target.with_file_name(format!(".{name}.cilmark-{}", process::id()));
    let write = || -> Result<()> {
        let old = fs::metadata(&target).ok();
        let mode = old.as_ref().map_or(0o644, |old| old.permissions().mode() & 0o7777);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        // The umask has had its say in the mode.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        if let Some(old) = old {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.sync_all()?;
        Ok(fs::rename(&beside, &target)?)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.with_context(|| format!("write {}", path.display()))
}
