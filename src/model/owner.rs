//! Whose an endpoint is.

use std::fmt;
use std::str::FromStr;

use anyhow::{Error, Result, ensure};
use serde::{Deserialize, Serialize};

/// Text that says whose an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Owner(String);

/// How many digits of a container's ID are shown.
const SHORT: usize = 12;

impl Owner {
    /// The most bytes: those of a file's name, by which runtimes keep their workloads.
    pub const MAX: usize = 255;

    /// The text.
    pub fn get(&self) -> &str {
        &self.0
    }

    /// As lists show it: of the ID of a container its first digits, as Docker and Podman do.
    pub fn short(&self) -> &str {
        if self.is_container_id() { &self.0[..SHORT] } else { &self.0 }
    }

    /// Whether somebody means it by this: its text, or of the ID of a container no fewer digits than lists show.
    pub fn is_meant_by(&self, text: &Owner) -> bool {
        let is_begin = || text.0.len() >= SHORT && self.0.starts_with(&text.0);
        self == text || self.is_container_id() && is_begin()
    }

    fn is_container_id(&self) -> bool {
        self.0.len() == 64 && self.0.bytes().all(|it| it.is_ascii_hexdigit())
    }
}

impl TryFrom<String> for Owner {
    type Error = Error;

    fn try_from(text: String) -> Result<Owner> {
        ensure!(!text.is_empty(), "an owner has a name; leave it out if there is none");
        ensure!(
            text.len() <= Owner::MAX,
            "owner `{text}` has {} bytes; {} are the most",
            text.len(),
            Owner::MAX
        );
        ensure!(
            !text.chars().any(char::is_control),
            "owner `{text}` has a control character in it"
        );
        Ok(Owner(text))
    }
}

impl FromStr for Owner {
    type Err = Error;

    fn from_str(text: &str) -> Result<Owner> {
        Owner::try_from(text.to_owned())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> String {
        owner.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(text: &str) -> Owner {
        text.parse().unwrap()
    }

    #[test]
    fn the_id_of_a_container_is_meant_by_what_lists_show_of_it() {
        let id = "0123456789abcdef".repeat(4);
        let container = owner(&id);
        assert_eq!(container.short(), "0123456789ab");
        for (text, is_meant) in
            [("0123456789ab", true), (&id, true), ("0123456789a", false), ("0123456789ac", false)]
        {
            assert_eq!(container.is_meant_by(&owner(text)), is_meant, "{text}");
        }
        let guest = owner("a-guest-with-a-long-name");
        assert_eq!(guest.short(), guest.get());
        assert!(guest.is_meant_by(&guest) && !guest.is_meant_by(&owner("a-guest-with-a")));
    }
}
