//! Options of matches and targets, and the numbers in them.

use anyhow::{Context, Result};

/// Options of the match or target that is being read.
#[derive(Default)]
pub struct Options {
    /// Whose they are.
    pub module: String,
    /// Each with what stands behind it.
    pub values: Vec<(String, String)>,
}

impl Options {
    /// A value and its mask.
    pub fn masked(&self, name: &str) -> Result<Option<(u32, u32)>> {
        self.get(name).map(masked).transpose()
    }

    /// What stands behind an option.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(option, _)| option == name).map(|(_, value)| value.as_str())
    }

    /// A mask, of which all bits are set if there is none.
    pub fn mask(&self, name: &str) -> Result<u32> {
        self.get(name).map_or(Ok(u32::MAX), number)
    }
}

/// `0x1/0xff`, or `0x1`.
pub fn masked(text: &str) -> Result<(u32, u32)> {
    match text.split_once('/') {
        Some((value, mask)) => Ok((number(value)?, number(mask)?)),
        None => Ok((number(text)?, u32::MAX)),
    }
}

/// In hexadecimal or decimal digits.
pub fn number(text: &str) -> Result<u32> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.with_context(|| format!("`{text}` is no number of 32 bits"))
}
