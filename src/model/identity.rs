//! Security identities: Cilium's numeric identities (pkg/identity/numericidentity.go).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::wire::CM_IDENTITY_NAME;

/// A numeric security identity, any `u32`; what fits into a mark has 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(pub u32);

const RESERVED: [(u32, &str); 11] = [
    (0, "unknown"),
    (1, "host"),
    (2, "world"),
    (3, "unmanaged"),
    (4, "health"),
    (5, "init"),
    (6, "remote-node"),
    (7, "kube-apiserver"),
    (8, "ingress"),
    (9, "world-ipv4"),
    (10, "world-ipv6"),
];

/// The longest name that `cm_identities` holds, in bytes.
pub const NAME_MAX: usize = CM_IDENTITY_NAME as usize - 1;

impl Identity {
    /// Nobody known.
    pub const UNKNOWN: Identity = Identity(0);
    /// This host itself.
    pub const HOST: Identity = Identity(1);
    /// Everybody whom the ipcache does not know.
    pub const WORLD: Identity = Identity(2);
    /// A workload whose identity is not known yet.
    pub const INIT: Identity = Identity(5);
    /// Another host.
    pub const REMOTE_NODE: Identity = Identity(6);
    /// The first that is free for workloads: what is below is reserved.
    pub const FIRST_OF_WORKLOADS: Identity = Identity(128);
    /// The largest identity that fits into a mark.
    pub const STAMPABLE_MAX: Identity = Identity(0xff_ffff);
    /// The largest identity that fits into an IPv6 flow label.
    pub const FLOW_LABEL_MAX: Identity = Identity(0xf_ffff);

    /// Reads a number, decimal or `0x…`, or a reserved name.
    pub fn from_number_or_reserved(text: &str) -> Option<Identity> {
        let number = match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => text.parse(),
        };
        let reserved = || RESERVED.iter().find(|(_, name)| *name == text);
        number.ok().or_else(|| reserved().map(|(number, _)| *number)).map(Identity)
    }

    /// Those that are the same everywhere, with their names.
    pub fn reserved() -> impl Iterator<Item = (Identity, &'static str)> {
        RESERVED.iter().map(|(number, name)| (Identity(*number), *name))
    }

    /// Whether a sender's address tells more than its mark: Cilium's `identity_is_reserved`.
    pub fn is_reserved(self) -> bool {
        [0, 1, 2, 6, 7, 9, 10].contains(&self.0)
    }

    fn reserved_name(self) -> Option<&'static str> {
        RESERVED.iter().find(|(number, _)| *number == self.0).map(|(_, name)| *name)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The operator's names for identities, on top of the reserved ones.
#[derive(Default, Clone)]
pub struct Names {
    by_identity: BTreeMap<Identity, String>,
    by_name: HashMap<String, Identity>,
    labels: Option<Arc<AskLabels>>,
}

/// Tells the labels of an identity.
pub type AskLabels = dyn Fn(Identity) -> Option<String> + Send + Sync;

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.by_identity.fmt(f)
    }
}

impl Names {
    /// Takes names as they are stored; of two for one identity the last counts.
    pub fn new(names: impl IntoIterator<Item = (Identity, String)>) -> Names {
        let by_identity: BTreeMap<Identity, String> = names.into_iter().collect();
        // Of two identities of one name the lowest has it.
        let by_name = by_identity.iter().rev().map(|(identity, name)| (name.clone(), *identity));
        Names { by_name: by_name.collect(), by_identity, labels: None }
    }

    /// The same, with the labels that clusters tell: asked for when they are shown.
    pub fn with_labels(self, labels: Arc<AskLabels>) -> Names {
        Names { labels: Some(labels), ..self }
    }

    /// The labels of an identity, as a cluster tells them.
    pub fn labels(&self, identity: Identity) -> Option<String> {
        self.labels.as_ref()?(identity)
    }

    /// The identity's name, declared or reserved.
    pub fn name(&self, identity: Identity) -> Option<&str> {
        identity.reserved_name().or_else(|| self.by_identity.get(&identity).map(String::as_str))
    }

    /// `1234 (db)`; where there is no name its labels, `196701 (app=web)`, or the number alone.
    pub fn label(&self, identity: Identity) -> String {
        match self.name(identity) {
            Some(name) => format!("{identity} ({name})"),
            None => match self.labels(identity) {
                Some(labels) => format!("{identity} ({labels})"),
                None => identity.to_string(),
            },
        }
    }

    /// Reads a number, a reserved name or a declared name.
    pub fn parse(&self, text: &str) -> Result<Identity> {
        Identity::from_number_or_reserved(text)
            .or_else(|| self.by_name.get(text).copied())
            .with_context(|| {
                format!(
                    "identity `{text}` is neither a number up to {} nor a known name; \
                     `cilmark identity list` shows the names, `cilmark identity set NUMBER NAME` adds one",
                    u32::MAX
                )
            })
    }

    /// Declared names, by identity.
    pub fn declared(&self) -> impl Iterator<Item = (Identity, &str)> {
        self.by_identity.iter().map(|(identity, name)| (*identity, name.as_str()))
    }

    /// Fails for an identity that no workload may have.
    pub fn check_workload(&self, identity: Identity) -> Result<()> {
        ensure!(
            identity >= Identity::FIRST_OF_WORKLOADS,
            "identity {} is reserved, and no workload's: take one from {} on",
            self.label(identity),
            Identity::FIRST_OF_WORKLOADS
        );
        Ok(())
    }

    /// Checks that `name` may be declared for `identity`.
    pub fn check_declaration(&self, identity: Identity, name: &str) -> Result<()> {
        if let Some(reserved) = identity.reserved_name() {
            bail!("identity {identity} is reserved and always called `{reserved}`");
        }
        if name.len() > NAME_MAX {
            bail!("name `{name}` has {} bytes; {NAME_MAX} is the most", name.len());
        }
        let well_formed = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
        if !well_formed {
            bail!("name `{name}` must begin with a letter a-z and go on with a-z 0-9 - _ .");
        }
        if name == "any" || Identity::from_number_or_reserved(name).is_some() {
            bail!("name `{name}` is reserved");
        }
        match self.by_identity.iter().find(|(other, taken)| *taken == name && **other != identity) {
            Some((other, _)) => bail!(
                "name `{name}` belongs to identity {other}; `cilmark identity del {other}` frees it"
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new([(Identity(1234), "db".to_owned())])
    }

    #[test]
    fn numbers_reserved_and_declared_names_are_read() {
        for (text, number) in [("1234", 1234), ("0x4d2", 1234), ("world", 2), ("db", 1234)] {
            assert_eq!(names().parse(text).unwrap(), Identity(number), "{text}");
        }
        assert_eq!(names().parse("4294967295").unwrap(), Identity(u32::MAX));
    }

    #[test]
    fn what_is_no_identity_is_refused_by_name() {
        for text in ["", "-1", "4294967296", "web", "any", "1 2"] {
            let error = names().parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn labels_carry_the_name_if_there_is_one() {
        assert_eq!(names().label(Identity(1234)), "1234 (db)");
        assert_eq!(names().label(Identity(1)), "1 (host)");
        assert_eq!(names().label(Identity(77)), "77");
        let labels = |identity: Identity| (identity.0 > 1000).then(|| "app=web".to_owned());
        let names = names().with_labels(Arc::new(labels));
        for (identity, label) in [(1234, "1234 (db)"), (77, "77"), (196_701, "196701 (app=web)")] {
            assert_eq!(names.label(Identity(identity)), label);
        }
    }

    #[test]
    fn a_declared_name_is_unique_readable_and_not_reserved() {
        let names = names();
        assert!(names.check_declaration(Identity(1234), "db").is_ok());
        assert!(names.check_declaration(Identity(300), "web-1").is_ok());
        for (identity, name) in [
            (300, "db"),
            (300, "any"),
            (300, "host"),
            (300, "0x10"),
            (300, ""),
            (300, "Web"),
            (300, "a b"),
            (2, "everybody"),
            (300, "a-name-that-is-too-long-for-the-map"),
        ] {
            assert!(
                names.check_declaration(Identity(identity), name).is_err(),
                "{identity} {name}"
            );
        }
    }
}
