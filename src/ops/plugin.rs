//! The command by another name, where a runtime looks for plugins.
//!
//! That is a link to the file that runs: an update of that file is one of the plugin, too, and nothing of another version is
//! left behind.

use std::env;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

/// What has become of a link: it leads to this file.
pub enum Link {
    /// There was none, or it led to a cilmark elsewhere.
    Made(PathBuf),
    /// It was there.
    WasThere(PathBuf),
}

/// Links a path to the command that runs. What is there and is not such a link stays, and is an error.
pub fn link(path: &Path) -> Result<Link> {
    let binary = env::current_exe().context("find the file of this command")?;
    let binary = fs::canonicalize(&binary).with_context(|| format!("find {}", binary.display()))?;
    check_is_roots(&binary)?;
    let directory = path.parent().unwrap_or(path);
    ensure!(
        directory.is_dir(),
        "{} is no directory; --dir names the one where the runtime looks for plugins, which is /usr/lib/cni by Debian's \
         packages, or make this one",
        directory.display()
    );
    if there(path, &binary)?.is_some_and(|target| target == binary) {
        return Ok(Link::WasThere(binary));
    }
    // A runtime that looks at this moment finds the one or the other.
    let beside = path.with_extension("new");
    let make = || {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => symlink(&binary, &beside)?,
        }
        fs::rename(&beside, path)
    };
    make().with_context(|| format!("link {} to {}", path.display(), binary.display()))?;
    Ok(Link::Made(binary))
}

/// Removes the link again; whether there was one. What is there and is no link to a cilmark stays, and is an error.
pub fn remove(path: &Path) -> Result<bool> {
    if there(path, Path::new(env!("CARGO_PKG_NAME")))?.is_none() {
        return Ok(false);
    }
    fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
    Ok(true)
}

/// Where the link leads that is there. It has to lead to a file of the name of `binary`, which may be gone.
fn there(path: &Path, binary: &Path) -> Result<Option<PathBuf>> {
    let at = path.display();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("look at {at}")),
        Ok(metadata) => ensure!(
            metadata.is_symlink(),
            "{at} is there, and no link of cilmark's: move it away first"
        ),
    }
    let target = fs::read_link(path).with_context(|| format!("read the link {at}"))?;
    ensure!(
        target.file_name() == binary.file_name(),
        "{at} is there, and leads to {}, which is no cilmark: move it away first",
        target.display()
    );
    Ok(Some(target))
}

/// Fails if anybody could put another file in the place of this one: runtimes run it as root. Who is in a group that may is
/// there by root's will, as in Debian's *staff*, which may write to /usr/local.
pub fn check_is_roots(binary: &Path) -> Result<()> {
    const STICKY: u32 = 0o1000;
    let is_roots = |metadata: &Metadata| {
        let mode = metadata.permissions().mode();
        let is_writable = mode & 0o002 != 0 && !(metadata.is_dir() && mode & STICKY != 0);
        metadata.uid() == 0 && !is_writable
    };
    for part in binary.ancestors() {
        let metadata = fs::metadata(part).with_context(|| format!("look at {}", part.display()))?;
        if !is_roots(&metadata) {
            bail!(
                "{} can be changed by users of this host, and runtimes would run {} as root: copy that to /usr/local/bin \
                 and install it from there",
                part.display(),
                binary.display()
            );
        }
    }
    Ok(())
}
