//! Labels, of which a cluster makes identities.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use anyhow::{Error, Result, ensure};
use serde::{Deserialize, Serialize};

use super::text::pieces;

/// Labels of a workload: `app=web,tier=front` as text, a table in JSON and in files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(pub BTreeMap<String, String>);

impl FromStr for Labels {
    type Err = Error;

    fn from_str(text: &str) -> Result<Labels> {
        let mut labels = BTreeMap::new();
        for pair in pieces(text) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (key.trim(), value.trim());
            ensure!(!key.is_empty(), "label `{pair}` has no key; labels are such as app=web");
            let before = labels.insert(key.to_owned(), value.to_owned());
            ensure!(before.is_none(), "label `{key}` is there twice");
        }
        Ok(Labels(labels))
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> =
            self.0.iter().map(|(key, value)| format!("{key}={value}")).collect();
        f.write_str(&pairs.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_a_key_each() {
        let labels: Labels = "app=web, tier=front,debug".parse().unwrap();
        assert_eq!(labels.to_string(), "app=web,debug=,tier=front");
        assert!("app=web,=x".parse::<Labels>().is_err());
        assert!("app=web,app=db".parse::<Labels>().is_err());
    }
}
