//! What the OCI runtime specification lays down: the state of a container and its bundle's `config.json`, the arguments
//! of runc, and the files in which Docker and Podman name their runtimes and hooks.
//!
//! Source: <https://github.com/opencontainers/runtime-spec>, `runtime.md`, `config.md` and `config-linux.md`.

pub mod arguments;
pub mod bundle;
pub mod daemon;
pub mod docker;
pub mod hooks;
pub mod image;
pub mod object;

use anyhow::{Context as _, Result, ensure};
use image::Keys;
use serde::Deserialize;

use super::wish::{Said, Wish};

/// When a hook is called, or a container starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its namespaces are there, and nobody runs in them yet.
    CreateRuntime,
    /// It has been deleted.
    Poststop,
}

impl Stage {
    /// By the specification.
    pub fn name(self) -> &'static str {
        match self {
            Stage::CreateRuntime => "createRuntime",
            Stage::Poststop => "poststop",
        }
    }
}

/// The state of a container, as a hook reads it and as a runtime tells it.
#[derive(Debug, Clone, Deserialize)]
pub struct State {
    /// Its name, one only on this host for this runtime.
    pub id: String,
    /// `creating`, `created`, `running` or `stopped`.
    #[serde(default)]
    pub status: String,
    /// Its first process; none, or 0, when there is none.
    #[serde(default)]
    pub pid: Option<u32>,
    /// The directory of `config.json`.
    #[serde(default)]
    pub bundle: String,
    /// Those of `config.json`.
    #[serde(default)]
    pub annotations: Option<Keys>,
}

impl State {
    /// Of JSON.
    pub fn parse(text: &str) -> Result<State> {
        let state: State = serde_json::from_str(text)
            .context("this is no state of a container, which an OCI runtime gives to its hooks")?;
        ensure!(!state.id.is_empty(), "the state of the container has no id");
        Ok(state)
    }

    /// What its annotations say, if they say anything.
    pub fn said(&self) -> Result<Option<Said>> {
        said("annotation", &self.annotations)
    }

    /// Who manages it, by the annotations that managers set.
    pub fn manager(&self) -> &'static str {
        let annotations = self.annotations.iter().flatten();
        let manager = annotations.clone().find(|(key, _)| *key == "io.container.manager");
        match manager.map(|(_, manager)| manager.as_str()) {
            Some("libpod") => "podman",
            Some("cri-o") => "cri-o",
            _ if annotations.clone().any(|(key, _)| key.starts_with("io.kubernetes.cri.")) => {
                "containerd"
            }
            _ => "oci",
        }
    }
}

fn said(who: &str, keys: &Option<Keys>) -> Result<Option<Said>> {
    let keys = keys.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()));
    let wish = Wish::of_annotations(keys).with_context(|| who.to_owned())?;
    Ok(Some(wish).filter(|wish| !wish.is_empty()).map(|wish| Said::by(who, wish)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_runc_and_crun_write_it() {
        let runc = r#"{"ociVersion": "1.0.2-dev", "id": "c1", "pid": 7, "status": "creating",
            "bundle": "/b", "annotations": {"cilmark.id": "300", "x": "y"}}"#;
        let state = State::parse(runc).unwrap();
        assert_eq!((state.id.as_str(), state.pid, state.bundle.as_str()), ("c1", Some(7), "/b"));
        let said = state.said().unwrap().unwrap();
        assert_eq!(
            (said.by.as_str(), said.wish.id.unwrap().to_string()),
            ("annotation", "300".into())
        );
        let stopped = r#"{"ociVersion": "1.0", "id": "c1", "status": "stopped", "bundle": "/b",
            "annotations": null}"#;
        let state = State::parse(stopped).unwrap();
        assert!(state.pid.is_none() && state.said().unwrap().is_none());
    }

    #[test]
    fn what_is_no_state_is_refused() {
        for text in ["", "[]", "{}", r#"{"id": ""}"#, r#"{"id": 7}"#, r#"{"id": "a", "pid": -1}"#] {
            assert!(State::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_that_is_misspelt_is_named_with_who_says_it() {
        let state = State::parse(r#"{"id": "c", "annotations": {"cilmark.polcy": "audit"}}"#);
        let error = format!("{:#}", state.unwrap().said().unwrap_err());
        assert!(error.starts_with("annotation: cilmark.polcy: "), "{error}");
    }

    #[test]
    fn a_manager_is_known_by_its_annotations() {
        let manager = |annotations: &str| {
            let text = format!(r#"{{"id": "c", "annotations": {{{annotations}}}}}"#);
            State::parse(&text).unwrap().manager()
        };
        assert_eq!(manager(r#""io.container.manager": "libpod""#), "podman");
        assert_eq!(manager(r#""io.container.manager": "cri-o""#), "cri-o");
        assert_eq!(manager(r#""io.kubernetes.cri.container-type": "sandbox""#), "containerd");
        assert_eq!(manager(r#""io.container.manager": "a b""#), "oci");
        assert_eq!(manager(""), "oci");
    }
}
