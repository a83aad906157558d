//! How values stand in JSON and in files: as they are written in arguments and output.

use std::fmt::{Display, Formatter};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserializer, Serialize};

/// Gives the values of an enum names: for arguments, output and files.
macro_rules! named {
    ($type:ident, $what:literal: $($value:ident = $name:literal),+ $(,)?) => {
        impl $type {
            /// All of them, in order.
            pub const ALL: &'static [$type] = &[$($type::$value),+];

            /// As it is written.
            pub const fn name(self) -> &'static str {
                match self {
                    $($type::$value => $name),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = anyhow::Error;

            fn from_str(text: &str) -> anyhow::Result<$type> {
                $crate::model::serial::value(text, $what, $type::ALL)
            }
        }

        $crate::model::serial::as_text!($type);
    };
}

/// Has a type stand in JSON and in files as `Display` writes and `FromStr` reads it.
macro_rules! as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                $crate::model::serial::text(from)
            }
        }
    };
}

pub(crate) use {as_text, named};

/// The value of this name.
pub fn value<T: Copy + Display>(text: &str, what: &str, all: &[T]) -> anyhow::Result<T> {
    let found = all.iter().find(|value| value.to_string() == text);
    found.copied().ok_or_else(|| {
        let mut names: Vec<String> = all.iter().map(|value| format!("`{value}`")).collect();
        let last = names.pop().unwrap_or_default();
        anyhow::anyhow!("`{text}` is not a {what}: write {} or {last}", names.join(", "))
    })
}

/// Reads what `FromStr` reads.
pub fn text<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    from.deserialize_str(Text(PhantomData))
}

struct Text<T>(PhantomData<T>);

impl<T: FromStr<Err: Display>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|error| E::custom(format_args!("{error:#}")))
    }
}

/// A number within these bounds.
pub fn number<E: Error>(number: u64, least: u32, most: u32) -> Result<u32, E> {
    let within = u32::try_from(number).ok().filter(|number| (least..=most).contains(number));
    within.ok_or_else(|| {
        let wanted = format!("a number from {least} to {most}");
        E::invalid_value(Unexpected::Unsigned(number), &wanted.as_str())
    })
}

/// Whether a field says nothing and is left out.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// For types of others that have `Display` and `FromStr`, and may be missing.
pub mod optional_text {
    use super::*;

    /// Writes it.
    pub fn serialize<T: Display, S: serde::Serializer>(
        value: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(T::to_string).serialize(to)
    }
}
