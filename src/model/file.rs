//! The file that says what a host shall have: its text, and what it asks for.
//!
//! Several files add up. Whatever is wrong is told by file, line and column, and an error that is about two places names
//! both.

mod document;
mod pattern;
mod wanted;

use std::fmt;
use std::rc::Rc;

pub use document::{Births, Documents, Source};
pub use pattern::Pattern;
pub use wanted::{Endpoint, Wanted};

/// The file of a host, if no other is named.
pub const DEFAULT_FILE: &str = "/etc/cilmark/cilmark.toml";

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file's name.
    pub file: Rc<str>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters; `None`: the whole line.
    pub column: Option<usize>,
}

impl Place {
    /// Of a byte of a text.
    pub fn of(file: &Rc<str>, text: &str, offset: usize) -> Place {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Place { file: Rc::clone(file), line, column: Some(column) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { file, line, column } = self;
        match column {
            Some(column) => write!(f, "{file}:{line}:{column}"),
            None => write!(f, "{file}:{line}"),
        }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub place: Place,
}

#[cfg(test)]
mod tests;
