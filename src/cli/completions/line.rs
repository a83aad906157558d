//! The line that is to be completed, and what it says itself.

use std::path::PathBuf;

use crate::cli::parse_root;
use crate::state::pin::Root;

/// A line that is to be completed.
pub struct Line {
    /// Its words; the last one is not complete.
    pub words: Vec<String>,
    /// Where the pins are.
    pub root: Root,
    /// The namespace that is meant.
    pub namespace: Option<String>,
}

/// Global options that take a value.
const GLOBAL: [&str; 2] = ["--bpffs", "--netns"];

impl Line {
    /// With the root that counts if the line names none.
    pub fn of(root: Root, words: Vec<String>) -> Line {
        let value = |option: &str| {
            let given = words.split_last().map_or(&[][..], |(_, before)| before);
            let mut found = None;
            for (number, word) in given.iter().enumerate() {
                match word.strip_prefix(option) {
                    Some("") => found = given.get(number + 1).cloned(),
                    Some(rest) => found = rest.strip_prefix('=').map(str::to_owned).or(found),
                    None => {}
                }
            }
            found
        };
        let named = value("--bpffs").and_then(|path| parse_root(PathBuf::from(path)).ok());
        Line { root: named.unwrap_or(root), namespace: value("--netns"), words }
    }

    /// The command, if it stands there to its end.
    pub fn command(&self) -> Option<&str> {
        let (_, before) = self.words.split_last()?;
        let mut words = before.iter().skip(1).map(String::as_str);
        loop {
            match words.next()? {
                option if GLOBAL.contains(&option) => _ = words.next(),
                option if option.starts_with('-') => {}
                command => return Some(command),
            }
        }
    }
}
