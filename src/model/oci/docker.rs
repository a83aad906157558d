//! What Docker's daemon keeps of a container.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::image::Keys;
use crate::model::wish::Said;

/// What Docker keeps of a container, in `containers/ID/config.v2.json` of its data.
#[derive(Debug, Deserialize)]
pub struct Container {
    #[serde(rename = "Config")]
    config: Config,
    #[serde(rename = "Image", default)]
    image: String,
    /// Where containerd keeps the images: that of the platform, of which `Image` may list several.
    #[serde(rename = "ImageManifest", default)]
    manifest: Option<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(rename = "Labels", default)]
    labels: Option<Keys>,
}

impl Container {
    /// Of JSON.
    pub fn parse(text: &str) -> Result<Container> {
        serde_json::from_str(text).context("it is not as Docker writes it")
    }

    /// The digest of its image: of the configuration or the manifest.
    pub fn image(&self) -> &str {
        self.manifest.as_ref().map_or(&self.image, |manifest| &manifest.digest)
    }

    /// Its labels, of which those that nobody has said are the image's.
    pub fn labels(&self) -> Option<&Keys> {
        self.config.labels.as_ref()
    }

    /// What the labels say, if they say anything.
    pub fn said(&self) -> Result<Option<Said>> {
        super::said("label", &self.config.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_may_have_no_labels_and_has_a_configuration() {
        for text in [r#"{"Config": {"Labels": null}}"#, r#"{"Config": {}}"#] {
            assert!(Container::parse(text).unwrap().said().unwrap().is_none());
        }
        assert!(Container::parse("{}").is_err());
    }

    #[test]
    fn a_label_that_is_wrong_is_named_with_who_says_it() {
        let container = Container::parse(r#"{"Config": {"Labels": {"cilmark.id": ""}}}"#).unwrap();
        let error = format!("{:#}", container.said().unwrap_err());
        assert!(error.starts_with("label: cilmark.id: "), "{error}");
    }
}
