//! The configuration of a network that a runtime hands to the plugin.

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::call::check_name;
use super::{Code, Error, Previous, Version};
use crate::model::enforcement::Modes;
use crate::model::labels::Labels;
use crate::model::spec::{EndpointSpec, IdentityRef};
use crate::model::wish::{PREFIX, Said, Wish};

/// What a configuration says, as far as it matters here.
#[derive(Debug)]
pub struct Configuration {
    /// In which version the runtime speaks.
    pub version: Version,
    /// The network's name.
    pub network: String,
    /// What the runtime passes that is said of the workload, the nearest first.
    pub words: Vec<Said>,
    /// What it says itself.
    pub said: Said,
    /// The endpoint that it asks for.
    pub options: Option<EndpointSpec>,
    /// Where the pins lie.
    pub bpffs: Option<PathBuf>,
    /// The file of this host.
    pub file: Option<PathBuf>,
    /// What the plugin before has answered.
    pub previous: Option<Previous>,
}

/// What CNI itself has in a configuration, beside `cni.dev/…`.
const OF_CNI: [&str; 13] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "prevResult",
    "args",
    "capabilities",
    "runtimeConfig",
    "ipMasq",
    "ipam",
    "dns",
    "disableCheck",
    "disableGC",
];

/// Under this name containerd and CRI-O hand the annotations of a pod to plugins whose `capabilities` ask for them.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

impl Configuration {
    /// Of the text on stdin.
    pub fn parse(text: &[u8]) -> Result<Configuration, Error> {
        let mut config = object(text)?;
        let version = version(&config)?;
        let network = named(&config, "name")?;
        check_name(&network)
            .map_err(|error| wrong("the configuration's `name`", format_args!("{error:#}")))?;
        named(&config, "type")?;
        let of = Of { network: &network };
        let words = vec![of.labels(&config)?, of.annotations(&config)?];
        let previous = take(&mut config, "prevResult", &of)?;
        let previous = previous.map(|result| Previous::of(result, version)).transpose();
        let previous =
            previous.map_err(|error| wrong(of.key("prevResult"), format_args!("{error:#}")))?;
        config.retain(|key, _| !OF_CNI.contains(&key.as_str()) && !key.starts_with("cni.dev/"));
        let configuration = Configuration {
            version,
            words,
            said: of.own(&mut config)?,
            options: of.options(&mut config)?,
            bpffs: of.path(&mut config, "bpffs")?,
            file: of.path(&mut config, "file")?,
            previous,
            network: network.clone(),
        };
        match config.into_iter().next() {
            None => Ok(configuration),
            Some((key, value)) => Err(Error::new(
                Code::UnsupportedField,
                format!("{}, whose value is {}", of.key(&key), shortened(&value)),
                "there is no such key; id, labels, rules, policy, options, bpffs and file are what there is",
            )),
        }
    }
}

/// What is asked about, for messages.
struct Of<'a> {
    network: &'a str,
}

impl Of<'_> {
    fn key(&self, key: &str) -> String {
        format!("network {}: `{key}`", self.network)
    }

    /// The keys that say what a workload gets.
    fn own(&self, config: &mut Map<String, Value>) -> Result<Said, Error> {
        let wish = Wish {
            id: take::<IdentityRef>(config, "id", self)?,
            rules: take::<Vec<String>>(config, "rules", self).map_err(
                |Error { details, .. }| {
                    let example = r#"write a list, such as ["allow ingress from any tcp/80"]"#;
                    wrong(self.key("rules"), format_args!("{details}; {example}"))
                },
            )?,
            policy: take::<Modes>(config, "policy", self)?,
            labels: take::<Labels>(config, "labels", self)?,
            ip: None,
        };
        Ok(Said::by("cni-config", wish))
    }

    /// An endpoint as in the file, but for what the runtime tells.
    fn options(&self, config: &mut Map<String, Value>) -> Result<Option<EndpointSpec>, Error> {
        let Some(mut options) = take::<Map<String, Value>>(config, "options", self)? else {
            return Ok(None);
        };
        if let Some(key) =
            ["device", "owner", "birth"].into_iter().find(|key| options.contains_key(*key))
        {
            let details = format!(
                "`{key}` is what the runtime tells, and stands in no configuration; take it out"
            );
            return Err(wrong(self.key("options"), details));
        }
        options.insert("device".to_owned(), Value::from(""));
        let spec = EndpointSpec::deserialize(Value::from(options));
        spec.map(Some).map_err(|error| wrong(self.key("options"), error))
    }

    fn path(&self, config: &mut Map<String, Value>, key: &str) -> Result<Option<PathBuf>, Error> {
        let path = take::<PathBuf>(config, key, self)?;
        match path {
            Some(path) if !path.is_absolute() => Err(wrong(
                self.key(key),
                format_args!("{} is not an absolute path", path.display()),
            )),
            path => Ok(path),
        }
    }

    /// What the annotations of a pod say.
    fn annotations(&self, config: &Map<String, Value>) -> Result<Said, Error> {
        let annotations = config.get("runtimeConfig").and_then(|it| it.get(ANNOTATIONS));
        let annotations = annotations.and_then(Value::as_object).into_iter().flatten();
        let wish = wish(annotations.map(|(key, value)| (key.as_str(), value)));
        wish.map(|wish| Said::by("annotation", wish))
            .map_err(|error| wrong(self.key("runtimeConfig"), error))
    }

    /// What labels say that a runtime passes by the convention of CNI: a list of key and value.
    fn labels(&self, config: &Map<String, Value>) -> Result<Said, Error> {
        let labels =
            config.get("args").and_then(|it| it.get("cni")).and_then(|it| it.get("labels"));
        let labels = labels.and_then(Value::as_array).into_iter().flatten();
        let pairs =
            labels.filter_map(|label| Some((label.get("key")?.as_str()?, label.get("value")?)));
        wish(pairs)
            .map(|wish| Said::by("label", wish))
            .map_err(|error| wrong(self.key("args"), error))
    }
}

/// What keys of cilmark say.
fn wish<'a>(pairs: impl Iterator<Item = (&'a str, &'a Value)>) -> Result<Wish, String> {
    let mut texts = Vec::new();
    for (key, value) in pairs {
        match value.as_str() {
            Some(text) => texts.push((key, text)),
            None if key.starts_with(PREFIX) => return Err(format!("{key}: {value} is no text")),
            None => {}
        }
    }
    Wish::of_annotations(texts).map_err(|error| format!("{error:#}"))
}

pub(super) fn wrong(what: impl Into<String>, why: impl std::fmt::Display) -> Error {
    Error::new(Code::InvalidConfiguration, what, why)
}

pub(super) fn object(text: &[u8]) -> Result<Map<String, Value>, Error> {
    serde_json::from_slice(text).map_err(|error| {
        let details = format!("{error}; a runtime hands a JSON object to the plugin, by stdin");
        Error::new(Code::Decoding, "the configuration of the network", details)
    })
}

pub(super) fn version(config: &Map<String, Value>) -> Result<Version, Error> {
    let key = "the configuration's `cniVersion`";
    let write = format!("write \"{}\", or another one of {}", Version::V1_0_0, all());
    match config.get("cniVersion") {
        None => {
            let details =
                format!("it is missing, which means 0.1.0, and that has no chains; {write}");
            Err(Error::new(Code::IncompatibleVersion, key, details))
        }
        Some(Value::String(text)) => text.parse().map_err(|_| {
            let details = format!("cilmark does not speak version `{text}` of CNI; {write}");
            Error::new(Code::IncompatibleVersion, key, details)
        }),
        Some(other) => {
            Err(Error::new(Code::Decoding, key, format_args!("{other} is no text; {write}")))
        }
    }
}

/// All versions.
fn all() -> String {
    Version::ALL.iter().map(|version| version.name()).collect::<Vec<_>>().join(", ")
}

/// A text that has to be there.
pub(super) fn named(config: &Map<String, Value>, key: &str) -> Result<String, Error> {
    let text = config.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.map(str::to_owned).ok_or_else(|| {
        wrong(
            format!("the configuration's `{key}`"),
            "it is missing; a network has a name, and each plugin its type",
        )
    })
}

/// Takes out what a key says; null says nothing.
fn take<T: DeserializeOwned>(
    config: &mut Map<String, Value>,
    key: &str,
    of: &Of<'_>,
) -> Result<Option<T>, Error> {
    let value = config.remove(key).filter(|value| !value.is_null());
    value.map(T::deserialize).transpose().map_err(|error| wrong(of.key(key), error))
}

/// As much of a value as a message has room for.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
