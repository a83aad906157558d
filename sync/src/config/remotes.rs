//! The client files of other clusters: a directory as Cilium mounts it, in which certificates lie, too.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Config;
use crate::cilium::name;

/// What is in every client file, and in nothing else of the directory.
const MARK: &str = "endpoints:";

/// What a directory of client files has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remotes {
    /// The file of each cluster.
    pub files: BTreeMap<String, PathBuf>,
    /// Client files that name no other cluster, and why.
    pub ignored: Vec<(PathBuf, String)>,
}

impl Config {
    /// The client files of other clusters; none where there is no such directory (yet).
    pub fn remotes(&self) -> Result<Remotes> {
        match &self.remotes {
            Some(directory) => look(directory, &self.name)
                .with_context(|| format!("read directory {}", directory.display())),
            None => Ok(Remotes::default()),
        }
    }
}

fn look(directory: &Path, own: &str) -> Result<Remotes> {
    let mut remotes = Remotes::default();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(remotes),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Kubernetes keeps versions of a secret in `..data` and the like.
        if name.starts_with('.') || !is_client_file(&path)? {
            continue;
        }
        if name == own {
            remotes.ignored.push((path, "it is called as this host's own cluster".to_owned()));
        } else if let Err(error) = name::check(&name) {
            remotes.ignored.push((path, error.to_string()));
        } else {
            remotes.files.insert(name, path);
        }
    }
    remotes.ignored.sort();
    Ok(remotes)
}

/// What has gone meanwhile is none: files are replaced while this looks.
fn is_client_file(path: &Path) -> Result<bool> {
    let read = match path.metadata() {
        Ok(it) if it.is_file() => fs::read(path),
        Ok(_) => return Ok(false),
        Err(error) => Err(error),
    };
    match read {
        Ok(bytes) => Ok(bytes.windows(MARK.len()).any(|it| it == MARK.as_bytes())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context(format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn client_files_are_told_from_what_lies_beside_them() {
        let directory = Directory::new("remotes");
        let put = |name: &str, text: &str| fs::write(directory.0.join(name), text).unwrap();
        fs::create_dir(directory.0.join("..2030")).unwrap();
        put("..2030/c1", "endpoints:\n- https://c1.mesh.cilium.io:2379\n");
        symlink("..2030/c1", directory.0.join("c1")).unwrap();
        symlink("nowhere", directory.0.join("c9")).unwrap();
        put("c2", "trusted-ca-file: /a\nendpoints:\n- https://c2:2379\n");
        put("edge", "endpoints:\n");
        put("C3", "endpoints:\n");
        put("c1.ca.crt", "-----BEGIN CERTIFICATE-----\n");
        put(".c4", "endpoints:\n");
        let remotes = look(&directory.0, "edge").unwrap();
        let names: Vec<&str> = remotes.files.keys().map(String::as_str).collect();
        assert_eq!(names, ["c1", "c2"]);
        assert_eq!(remotes.files["c1"], directory.0.join("c1"));
        let ignored: Vec<_> = remotes.ignored.iter().map(|(path, _)| path.clone()).collect();
        assert_eq!(ignored, [directory.0.join("C3"), directory.0.join("edge")]);
    }

    #[test]
    fn a_directory_may_come_later() {
        assert_eq!(look(Path::new("/nowhere/at/all"), "edge").unwrap(), Remotes::default());
        assert!(look(Path::new("/dev/null"), "edge").is_err());
    }

    /// A directory of the test's own, which goes with it.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let path = std::env::temp_dir().join(format!("cilmark-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Directory(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
