//! The Container Network Interface: what a runtime asks of a plugin, and what the plugin answers.
//!
//! The source is the specification, `SPEC.md` of `containernetworking/cni`, in the versions of [`Version`].

mod call;
mod cleanup;
mod config;
mod previous;

use std::fmt;

pub use call::{Attachment, Call, Where};
pub use cleanup::{Valid, bpffs, check_readable};
pub use config::Configuration;
pub use previous::Previous;
use serde_json::{Value, json};

use super::serial::named;

/// A version of the specification that the plugin speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// The first with chains.
    V0_3_1,
    /// With CHECK.
    V0_4_0,
    /// Without the version of an address.
    V1_0_0,
    /// With GC and STATUS.
    V1_1_0,
}

named!(Version, "version of CNI that cilmark speaks": V0_3_1 = "0.3.1", V0_4_0 = "0.4.0", V1_0_0 = "1.0.0", V1_1_0 = "1.1.0");

impl Version {
    /// The newest.
    pub const NEWEST: Version = Version::V1_1_0;

    /// In which an error about this configuration is told: its own if that is known, else the newest.
    pub fn of_errors(config: &[u8]) -> Version {
        let config: Value = serde_json::from_slice(config).unwrap_or_default();
        let version = config.get("cniVersion").and_then(Value::as_str);
        version.and_then(|it| it.parse().ok()).unwrap_or(Version::NEWEST)
    }

    /// Fails if the version has no such command: that came with `since`.
    pub fn check_has(self, command: &str, since: Version) -> Result<(), Error> {
        if self >= since {
            return Ok(());
        }
        let details = format!(
            "version {self} of CNI has no {command}, which came with {since}: write that into the list"
        );
        Err(Error::new(Code::IncompatibleVersion, "the configuration's `cniVersion`", details))
    }
}

/// What VERSION answers to this input. It names the input's version, as the specification wants, whether that is spoken or not.
pub fn versions(input: &[u8]) -> Value {
    let input: Value = serde_json::from_slice(input).unwrap_or_default();
    let version = input.get("cniVersion").and_then(Value::as_str);
    let version = version.unwrap_or(Version::NEWEST.name());
    json!({ "cniVersion": version, "supportedVersions": Version::ALL })
}

/// The number of an error: up to 99 those of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The version is none that is spoken, or has no such command.
    IncompatibleVersion = 1,
    /// The configuration has a key that nobody knows.
    UnsupportedField = 2,
    /// Something is wrong with the environment.
    InvalidEnvironment = 4,
    /// Stdin could not be read.
    Io = 5,
    /// The configuration is no JSON, or not of the specification's form.
    Decoding = 6,
    /// The configuration asks for what can't be.
    InvalidConfiguration = 7,
    /// Another command was at work all the time.
    TryAgainLater = 11,
    /// STATUS: ADD would fail.
    Unavailable = 50,
    /// Ours: the workload gets no identity, and must not start.
    Attach = 100,
    /// Ours: what a workload has is not what it is to have.
    Check = 101,
    /// Ours: something could not be taken off.
    Detach = 102,
}

/// An error as a runtime gets it, which shows both texts.
#[derive(Debug)]
pub struct Error {
    /// Which kind.
    pub code: Code,
    /// What it is about.
    pub msg: String,
    /// The cause and the cure.
    pub details: String,
}

impl Error {
    /// About something, with cause and cure.
    pub fn new(code: Code, msg: impl Into<String>, details: impl fmt::Display) -> Error {
        Error { code, msg: msg.into(), details: details.to_string() }
    }

    /// The object that goes to stdout.
    pub fn json(&self, version: Version) -> Value {
        let Error { code, msg, details } = self;
        json!({ "cniVersion": version, "code": *code as u32, "msg": msg, "details": details })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_order_and_no_others_are_known() {
        assert!(Version::ALL.is_sorted());
        for unknown in ["0.1.0", "0.2.0", "0.3.0", "1.2.0", "1.0", ""] {
            assert!(unknown.parse::<Version>().is_err(), "{unknown}");
        }
    }

    #[test]
    fn an_error_is_told_in_the_version_of_its_configuration_or_the_newest() {
        for (config, version) in [
            (r#"{"cniVersion": "0.4.0"}"#, Version::V0_4_0),
            (r#"{"cniVersion": "9.9.9"}"#, Version::V1_1_0),
            (r#"{"cniVersion": 4}"#, Version::V1_1_0),
            ("{", Version::V1_1_0),
        ] {
            assert_eq!(Version::of_errors(config.as_bytes()), version, "{config}");
        }
        let error = Error::new(Code::TryAgainLater, "network web", "it is locked");
        let expected = json!({"cniVersion": "0.4.0", "code": 11, "msg": "network web", "details": "it is locked"});
        assert_eq!(error.json(Version::V0_4_0), expected);
    }
}
