//! `cm_id_labels`: who identities are, as clusters tell it. No program reads this map.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;

use anyhow::Result;

use crate::kernel::abi::{self, cm_id_labels, u32_key};
use crate::model::identity::Identity;
use crate::model::wire::CM_ID_LABELS_TEXT;
use crate::state::maps::TypedMap;
use crate::state::pin::Root;

/// Its name.
pub const NAME: &str = "cm_id_labels";

/// Bytes of a text.
const LONGEST: usize = CM_ID_LABELS_TEXT as usize - 1;
/// Where a text is cut off.
const ELLIPSIS: &str = "…";
/// So many texts are in memory at a time where all are read.
const AT_A_TIME: usize = 1024;

/// The map. Who changes it holds the root's lock.
pub struct IdLabels {
    map: TypedMap<u32_key, cm_id_labels>,
}

impl IdLabels {
    /// `None` if nobody has made it yet.
    pub fn open(root: &Root) -> Result<Option<IdLabels>> {
        Ok(TypedMap::open(root, NAME)?.map(|map| IdLabels { map }))
    }

    /// The labels of an identity.
    pub fn get(&self, identity: Identity) -> Result<Option<String>> {
        Ok(self.map.get(&u32_key(identity.0))?.map(|labels| abi::string_of(&labels.text)))
    }

    /// Each identity that has some.
    pub fn for_each(&self, mut each: impl FnMut(Identity, String)) -> Result<()> {
        self.map.for_each(AT_A_TIME, |key, labels| {
            each(Identity(key.0), abi::string_of(&labels.text));
        })
    }

    /// Writes labels where there are other ones. Of those for which there is no room nothing is known: how many.
    pub fn set(&self, labels: &[(Identity, &str)]) -> Result<usize> {
        let mut new = Vec::new();
        for (identity, text) in labels {
            let (key, value) = (u32_key(identity.0), value_of(text));
            let there = self.map.get(&key)?;
            if there.is_none_or(|there| abi::bytes_of(&there) != abi::bytes_of(&value)) {
                new.push((key, value));
            }
        }
        Ok(self.map.set_what_fits(&new)?.len())
    }

    /// Forgets the labels of identities.
    pub fn delete(&self, identities: &[Identity]) -> Result<()> {
        let keys: Vec<u32_key> = identities.iter().map(|identity| u32_key(identity.0)).collect();
        self.map.delete_each(&keys)
    }

    /// Whether no identity has any.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Asks for the labels of identities, for each once: that is cheap where there are many, and few are of interest.
    pub fn reader(self) -> Arc<dyn Fn(Identity) -> Option<String> + Send + Sync> {
        let known: Mutex<HashMap<Identity, Option<String>>> = Mutex::default();
        Arc::new(move |identity| {
            let mut known = known.lock().ok()?;
            // Without labels a number does.
            known.entry(identity).or_insert_with(|| self.get(identity).ok().flatten()).clone()
        })
    }
}

fn value_of(text: &str) -> cm_id_labels {
    cm_id_labels { text: abi::chars_of(&cut(text)) }
}

/// What the map has of a text.
pub fn cut(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let mut end = LONGEST - ELLIPSIS.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{ELLIPSIS}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_off_between_characters() {
        assert_eq!(cut("app=web"), "app=web");
        let longest = "a".repeat(LONGEST);
        assert_eq!(cut(&longest), longest);
        for text in
            ["a".repeat(LONGEST + 1), "é".repeat(LONGEST), "a".to_owned() + &"日".repeat(LONGEST)]
        {
            let cut = cut(&text);
            assert!(cut.len() <= LONGEST && cut.len() > LONGEST - 4, "{}", cut.len());
            assert!(
                text.starts_with(cut.strip_suffix(ELLIPSIS).expect("a sign that more was there"))
            );
        }
    }
}
