//! What an image says: its labels and annotations become those of a container that has none of the same key, with Docker
//! and with Podman. Whoever makes an image is not whoever may say which identity a container has.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::model::wish::PREFIX;

/// Labels or annotations.
pub type Keys = BTreeMap<String, String>;

/// Fails if one of cilmark's is the image's, or says the same: nobody can tell them apart then.
pub fn check(keys: &Keys, of_image: &Keys) -> Result<()> {
    for (key, value) in own(keys) {
        ensure!(
            of_image.get(key) != Some(value),
            "{key}={value} is what its image says, whose maker does not decide that: take it out of the image, or start the \
             container with another value"
        );
    }
    Ok(())
}

/// Those of cilmark.
pub fn own(keys: &Keys) -> impl Iterator<Item = (&String, &String)> {
    keys.iter().filter(|(key, _)| key.starts_with(PREFIX))
}

/// What is kept under a digest: the configuration of an image, its manifest, or the list of those of several platforms.
#[derive(Debug, Deserialize)]
pub struct Blob {
    #[serde(default)]
    config: Option<Config>,
    #[serde(default)]
    annotations: Option<Keys>,
    #[serde(default)]
    manifests: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    digest: Option<String>,
    #[serde(rename = "Labels", default)]
    labels: Option<Keys>,
}

impl Blob {
    /// Of JSON.
    pub fn parse(text: &str) -> Result<Blob> {
        let blob: Blob = serde_json::from_str(text).context("it is nothing of an image")?;
        ensure!(blob.manifests.is_none(), "it is a list of images, and does not tell which");
        Ok(blob)
    }

    /// The annotations of a manifest; `None` of a list of images.
    pub fn of_manifest(text: &str) -> Result<Option<Keys>> {
        let blob: Blob = serde_json::from_str(text).context("it is nothing of an image")?;
        Ok(blob.manifests.is_none().then(|| blob.annotations()))
    }

    /// Of a manifest: the digest of the configuration.
    pub fn config(&self) -> Option<&str> {
        self.config.as_ref()?.digest.as_deref()
    }

    /// Of a manifest: its annotations.
    pub fn annotations(self) -> Keys {
        self.annotations.unwrap_or_default()
    }

    /// Of a configuration: its labels.
    pub fn labels(self) -> Keys {
        self.config.and_then(|config| config.labels).unwrap_or_default()
    }
}

/// A container in the list of containers/storage, which Podman and CRI-O use.
#[derive(Debug, Deserialize)]
struct Stored {
    id: String,
    #[serde(default)]
    image: String,
}

/// The image of a container by such a list. `None`: it is not in it; empty: it has none.
pub fn stored_image(list: &str, id: &str) -> Result<Option<String>> {
    let list: Vec<Stored> =
        serde_json::from_str(list).context("it is not as containers/storage writes it")?;
    Ok(list.into_iter().find(|stored| stored.id == id).map(|stored| stored.image))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(pairs: &[(&str, &str)]) -> Keys {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    #[test]
    fn what_the_image_says_too_is_refused_and_only_that() {
        let said = keys(&[("cilmark.id", "300"), ("app", "web")]);
        for image in
            [&[][..], &[("app", "web")], &[("cilmark.id", "301")], &[("cilmark.rules", "")]]
        {
            check(&said, &keys(image)).unwrap();
        }
        let error = check(&said, &keys(&[("cilmark.id", "300")])).unwrap_err().to_string();
        assert!(error.starts_with("cilmark.id=300 is what its image says"), "{error}");
    }

    #[test]
    fn labels_are_in_a_configuration_to_which_a_manifest_leads() {
        let blob = |text| Blob::parse(text).unwrap();
        let config = blob(r#"{"architecture": "amd64", "config": {"Labels": {"a": "b"}}}"#);
        assert_eq!(config.config(), None);
        assert_eq!(config.labels(), keys(&[("a", "b")]));
        assert_eq!(blob(r#"{"config": {"Labels": null}}"#).labels(), keys(&[]));
        let manifest = r#"{"config": {"digest": "sha256:f00"}, "annotations": {"c": "d"}}"#;
        assert_eq!(blob(manifest).config(), Some("sha256:f00"));
        assert_eq!(blob(manifest).annotations(), keys(&[("c", "d")]));
        for text in [r#"{"manifests": []}"#, "", "7"] {
            assert!(Blob::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_container_has_an_image_or_none_or_is_not_known() {
        let list = r#"[{"id": "c1", "names": ["a"], "image": "f00"}, {"id": "c2"}]"#;
        let image = |id| stored_image(list, id).unwrap();
        assert_eq!((image("c1"), image("c2")), (Some("f00".into()), Some(String::new())));
        assert_eq!(image("c3"), None);
        assert!(stored_image("{}", "c1").is_err());
    }
}
