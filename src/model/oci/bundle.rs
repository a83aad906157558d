//! The `config.json` of a bundle: what it tells of a container's network, and of Docker.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// What is read of it.
#[derive(Debug, Deserialize)]
pub struct Bundle {
    #[serde(default)]
    root: Option<Root>,
    #[serde(default)]
    mounts: Option<Vec<Mount>>,
    #[serde(default)]
    linux: Option<Linux>,
}

#[derive(Debug, Deserialize)]
struct Root {
    path: String,
}

#[derive(Debug, Deserialize)]
struct Mount {
    destination: String,
    #[serde(default)]
    source: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Option<Vec<Namespace>>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: Option<String>,
}

/// Where Docker keeps its data if nobody says another directory.
const DOCKER: &str = "/var/lib/docker";

impl Bundle {
    /// Of JSON.
    pub fn parse(text: &str) -> Result<Bundle> {
        serde_json::from_str(text).context("it is no configuration of a container")
    }

    /// The network namespace that it is to join, if one is named.
    pub fn network_path(&self) -> Option<&str> {
        let path = self.namespace("network")?.path.as_deref();
        path.filter(|path| !path.is_empty())
    }

    /// Whether it has a network namespace that only its first process opens, and a user namespace: what owns that can
    /// put a device into it only when the runtime is done.
    pub fn network_may_come_later(&self) -> bool {
        self.namespace("user").is_some() && self.network_path().is_none()
    }

    fn namespace(&self, kind: &str) -> Option<&Namespace> {
        let namespaces = self.linux.as_ref()?.namespaces.as_ref()?;
        namespaces.iter().find(|namespace| namespace.kind == kind)
    }

    /// The directories above its root file system.
    pub fn above_root(&self) -> impl Iterator<Item = &Path> {
        self.root.iter().flat_map(|root| Path::new(&root.path).ancestors().skip(1))
    }

    /// Where Docker may keep its data: above the root of the container, which Docker alone names; where the files come
    /// from that it mounts into each container (of another one with `--network container:X`); and where it does by
    /// default.
    pub fn docker_data(&self) -> Vec<PathBuf> {
        let root = self.above_root();
        let mounts = self.mounts.iter().flatten().filter_map(Mount::docker_data);
        let all = root.chain(mounts).chain([Path::new(DOCKER)]);
        let mut data: Vec<PathBuf> = Vec::new();
        for path in all.filter(|path| path.is_absolute()) {
            if !data.iter().any(|known| known == path) {
                data.push(path.to_owned());
            }
        }
        data
    }
}

impl Mount {
    /// `DATA` of `DATA/containers/ID/hosts` on `/etc/hosts`, and the like.
    fn docker_data(&self) -> Option<&Path> {
        let file = self.destination.strip_prefix("/etc/")?;
        let source = Path::new(self.source.as_deref()?);
        let is_meant = ["hostname", "hosts", "resolv.conf"].contains(&file);
        let containers = source.parent()?.parent()?;
        (is_meant && source.ends_with(file) && containers.ends_with("containers"))
            .then_some(containers.parent()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_namespaces(namespaces: &str) -> Bundle {
        Bundle::parse(&format!(r#"{{"linux": {{"namespaces": {namespaces}}}}}"#)).unwrap()
    }

    #[test]
    fn the_network_is_the_namespace_that_is_named() {
        let bundle =
            with_namespaces(r#"[{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}]"#);
        assert_eq!(bundle.network_path(), Some("/run/netns/x"));
        for namespaces in
            [r#"[{"type": "network"}]"#, r#"[{"type": "network", "path": ""}]"#, "[]", "null"]
        {
            assert_eq!(with_namespaces(namespaces).network_path(), None, "{namespaces}");
        }
        assert_eq!(Bundle::parse("{}").unwrap().network_path(), None);
    }

    #[test]
    fn the_network_may_come_later_only_with_a_user_namespace() {
        let is_late = |namespaces| with_namespaces(namespaces).network_may_come_later();
        assert!(is_late(r#"[{"type": "network"}, {"type": "user"}]"#));
        assert!(!is_late(r#"[{"type": "network", "path": "/x"}, {"type": "user"}]"#));
        assert!(!is_late(r#"[{"type": "network"}]"#));
    }

    #[test]
    fn the_data_of_docker_is_found_by_its_root_and_its_mounts() {
        let bundle = Bundle::parse(
            r#"{"root": {"path": "/srv/d/overlay2/f00/merged"}, "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/etc/hosts", "source": "/data/containers/c2/hosts"},
                {"destination": "/etc/hostname", "source": "/run/containers/storage/x/userdata/hostname"},
                {"destination": "/etc/resolv.conf", "source": "/x/containers/c2/hosts"},
                {"destination": "/mnt", "source": "/y/containers/c2/hosts"}]}"#,
        );
        let data = bundle.unwrap().docker_data();
        let data: Vec<_> = data.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(
            data,
            [
                "/srv/d/overlay2/f00",
                "/srv/d/overlay2",
                "/srv/d",
                "/srv",
                "/",
                "/data",
                "/var/lib/docker"
            ]
        );
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for text in ["", "[", "7", r#"{"linux": 7}"#, r#"{"linux": {}, "linux": {}}"#] {
            assert!(Bundle::parse(text).is_err(), "{text}");
        }
    }
}
