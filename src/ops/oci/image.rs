//! Finds the image of a container, for what it says.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::is_missing;
use crate::model::oci::bundle::Bundle;
use crate::model::oci::docker::Container;
use crate::model::oci::image::{Blob, Keys, stored_image};

/// Where containerd keeps images: its own, and that which Docker starts.
const CONTENT: &str = "io.containerd.content.v1.content/blobs";
const CONTAINERD: &str = "/var/lib/containerd";

/// The labels of the image of a container of Docker, whose data is there.
pub fn labels(data: &Path, container: &Container) -> Result<Keys> {
    let digest = container.image();
    let blob = blob(data, digest)?;
    match blob.config() {
        None => Ok(blob.labels()),
        Some(config) => Ok(self::blob(data, config)?.labels()),
    }
}

fn blob(data: &Path, digest: &str) -> Result<Blob> {
    let (kind, hash) = digest.split_once(':').unwrap_or_default();
    // Else it would name a file elsewhere.
    ensure!(
        kind == "sha256" && !hash.is_empty() && hash.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "nobody can tell what its image says: it is `{digest}`, and no digest"
    );
    let of_drivers = entries(&data.join("image"))?.map(|driver| driver.join("imagedb/content"));
    let of_containerd = [data.join("containerd/daemon"), CONTAINERD.into()];
    let of_containerd = of_containerd.into_iter().map(|root| root.join(CONTENT));
    for folder in of_drivers.chain(of_containerd) {
        let path = folder.join(kind).join(hash);
        if let Some(text) = read(&path)? {
            return Blob::parse(&text).with_context(|| path.display().to_string());
        }
    }
    bail!(
        "nobody can tell what its image says: there is no {digest} in {}/image or {CONTAINERD}",
        data.display()
    )
}

/// The annotations of the image of a container of Podman's, or whoever else uses containers/storage, by each manifest that it
/// has or had; none for others.
pub fn annotations(bundle_path: &Path, bundle: &Bundle, id: &str) -> Result<Vec<Keys>> {
    // STORAGE/DRIVER-containers/ID/userdata, and STORAGE/DRIVER/LAYER/merged.
    let of_bundle = bundle_path.ancestors().nth(3);
    let storages: Vec<&Path> = of_bundle.into_iter().chain(bundle.above_root()).collect();
    for folder in folders(&storages, "-containers")? {
        for list in ["containers.json", "volatile-containers.json"] {
            let path = folder.join(list);
            let Some(text) = read(&path)? else { continue };
            match stored_image(&text, id).with_context(|| path.display().to_string())? {
                None => {}
                Some(image) if image.is_empty() => return Ok(Vec::new()),
                Some(image) => return of_stored(&storages, &image),
            }
        }
    }
    Ok(Vec::new())
}

/// How the names of files begin in which containers/storage keeps `manifest-DIGEST`: `=` and base64.
const MANIFEST_BY_DIGEST: &str = "=bWFuaWZlc3Qt";

/// An image is what its configuration is: it gets another manifest when it is pulled again, and keeps those before, of which
/// a container may be made.
fn of_stored(storages: &[&Path], image: &str) -> Result<Vec<Keys>> {
    ensure!(!image.contains('/') && !image.starts_with('.'), "image `{image}` is no name");
    for folder in folders(storages, "-images")? {
        let folder = folder.join(image);
        let path = folder.join("manifest");
        let Some(text) = read(&path)? else { continue };
        let blob = Blob::parse(&text).with_context(|| path.display().to_string())?;
        let mut all = vec![blob.annotations()];
        for path in entries(&folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let text = if name.starts_with(MANIFEST_BY_DIGEST) { read(&path)? } else { None };
            let keys = text.map(|text| Blob::of_manifest(&text)).transpose();
            all.extend(keys.with_context(|| path.display().to_string())?.flatten());
        }
        return Ok(all);
    }
    bail!("nobody can tell what its image says: there is no manifest of {image} beside it")
}

/// Those whose names end so.
fn folders(storages: &[&Path], end: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for storage in storages {
        let is_meant = |path: &PathBuf| path.to_string_lossy().ends_with(end);
        found.extend(entries(storage)?.filter(is_meant));
    }
    Ok(found)
}

fn entries(folder: &Path) -> Result<impl Iterator<Item = PathBuf> + use<>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if !is_missing(&error) => {
            return Err(error).context(format!("read {}", folder.display()));
        }
        entries => entries.into_iter().flatten().flatten().map(|entry| entry.path()),
    };
    Ok(entries)
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => {
            Err::<_, io::Error>(error).with_context(|| format!("read {}", path.display()))
        }
    }
}
