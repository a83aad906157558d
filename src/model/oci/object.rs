//! A JSON object of somebody else, of which only some members are changed: all others stay as they are written, in their
//! order, with their spaces and the digits of their numbers.

use std::fmt;

use anyhow::{Context as _, Result, bail};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::value::RawValue;

/// The members of an object.
#[derive(Debug, Clone, Default)]
pub struct Object {
    members: Vec<(String, Box<RawValue>)>,
}

impl Object {
    /// Of JSON.
    pub fn parse(text: &str) -> Result<Object> {
        serde_json::from_str(text).context("it is no JSON object")
    }

    /// A member; `null` is none. It is an error if it is there twice, as readers differ in which one counts.
    pub fn get(&self, key: &str) -> Result<Option<&RawValue>> {
        let mut found = self.members.iter().filter(|(name, _)| name == key);
        let value = found.next().map(|(_, value)| &**value);
        if found.next().is_some() {
            bail!("`{key}` is there twice");
        }
        Ok(value.filter(|value| value.get() != "null"))
    }

    /// A member that is an object itself; an empty one if it is not there.
    pub fn object(&self, key: &str) -> Result<Object> {
        let Some(value) = self.get(key)? else { return Ok(Object::default()) };
        Object::parse(value.get()).with_context(|| format!("`{key}`"))
    }

    /// A member that is a list; an empty one if it is not there.
    pub fn list(&self, key: &str) -> Result<Vec<Box<RawValue>>> {
        let Some(value) = self.get(key)? else { return Ok(Vec::new()) };
        serde_json::from_str(value.get()).with_context(|| format!("`{key}` is no list"))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Puts a member in the place of one of this name, or behind all others.
    pub fn set(&mut self, key: &str, value: Box<RawValue>) {
        match self.members.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.members.push((key.to_owned(), value)),
        }
    }

    /// Takes a member away.
    pub fn remove(&mut self, key: &str) {
        self.members.retain(|(name, _)| name != key);
    }

    /// On one line, but for members that have lines of their own.
    pub fn compact(&self) -> Result<Box<RawValue>> {
        raw(self)
    }

    /// A member a line, so many indents in.
    pub fn lines(&self, indent: &str, depth: usize) -> Result<Box<RawValue>> {
        if self.is_empty() {
            return Ok(RawValue::from_string("{}".to_owned())?);
        }
        let inner = indent.repeat(depth + 1);
        let lines: Result<Vec<String>> = self
            .members
            .iter()
            .map(|(key, value)| Ok(format!("{inner}{}: {value}", serde_json::to_string(key)?)))
            .collect();
        let text = format!("{{\n{}\n{}}}", lines?.join(",\n"), indent.repeat(depth));
        Ok(RawValue::from_string(text)?)
    }
}

/// A value on one line.
pub fn raw(value: &impl Serialize) -> Result<Box<RawValue>> {
    Ok(serde_json::value::to_raw_value(value)?)
}

/// A value with a line for each of what it has, so many indents in.
pub fn raw_lines(value: &impl Serialize, indent: &str, depth: usize) -> Result<Box<RawValue>> {
    let mut text = Vec::new();
    let formatter = PrettyFormatter::with_indent(indent.as_bytes());
    value.serialize(&mut Serializer::with_formatter(&mut text, formatter))?;
    let text = String::from_utf8(text)?.replace('\n', &format!("\n{}", indent.repeat(depth)));
    Ok(RawValue::from_string(text)?)
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Object, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Object, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object { members })
            }
        }
        from.deserialize_map(Members)
    }
}

impl Serialize for Object {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.members.iter().map(|(key, value)| (key, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_changed_stays_as_it_is_written() {
        let text =
            r#"{"z": 1e3, "a":[ 18446744073709551616,1.0 ],"é": {"b":1,"a":null}, "z2":"\u00e9"}"#;
        let mut object = Object::parse(text).unwrap();
        object.set("n", raw(&7).unwrap());
        let written = object.compact().unwrap();
        for piece in ["1e3", "[ 18446744073709551616,1.0 ]", r#"{"b":1,"a":null}"#, r#""\u00e9""#] {
            assert!(written.get().contains(piece), "{piece} in {written}");
        }
        assert!(written.get().starts_with(r#"{"z":1e3"#) && written.get().ends_with(r#""n":7}"#));
    }

    #[test]
    fn a_member_that_is_there_twice_is_refused_only_if_it_is_asked_for() {
        let object = Object::parse(r#"{"a": 1, "b": 2, "a": 3, "c": null}"#).unwrap();
        assert!(object.get("a").unwrap_err().to_string().contains("`a` is there twice"));
        assert_eq!(object.get("b").unwrap().unwrap().get(), "2");
        assert!(object.get("c").unwrap().is_none() && object.get("d").unwrap().is_none());
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "[]", "7", "{", r#"{"a": }"#, "{} {}", "// x\n{}"] {
            assert!(Object::parse(text).is_err(), "{text}");
        }
    }
}
