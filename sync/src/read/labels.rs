//! Which labels identities have. Each is of one cluster, by its range.

use std::collections::{BTreeSet, HashMap};

use cilmark::model::identity::Identity;
use cilmark::ops::cluster::labels::{LabelChange, cut};

use super::table::Number;

/// The labels of all clusters.
#[derive(Default)]
pub(super) struct Labels {
    known: HashMap<Identity, Entry>,
    changed: BTreeSet<Identity>,
    /// Of the list that a cluster has begun last.
    marks: HashMap<Number, u32>,
}

struct Entry {
    cluster: Number,
    text: Box<str>,
    /// Of the list that it was in; 0 for what was in the map at the start.
    mark: u32,
}

impl Labels {
    /// What was in the map at the start.
    pub(super) fn adopt(&mut self, cluster: Number, identity: Identity, text: String) {
        let text = text.into_boxed_str();
        self.known.entry(identity).or_insert(Entry { cluster, text, mark: 0 });
    }

    /// A complete list begins.
    pub(super) fn begin(&mut self, cluster: Number) {
        *self.marks.entry(cluster).or_default() += 1;
    }

    /// A complete list ends: what was not in it is gone.
    pub(super) fn end(&mut self, cluster: Number) {
        let mark = self.mark(cluster);
        self.remove(|entry| entry.cluster == cluster && entry.mark != mark);
    }

    /// All clusters that are read have listed.
    pub(super) fn end_adopted(&mut self, read: &BTreeSet<Number>) {
        self.remove(|entry| !read.contains(&entry.cluster));
    }

    pub(super) fn drain(&mut self, cluster: Number) {
        self.remove(|entry| entry.cluster == cluster);
    }

    pub(super) fn set(&mut self, cluster: Number, identity: Identity, text: &str) {
        // As the map has them: etcd takes values of a megabyte.
        let text = cut(text).into_boxed_str();
        let mark = self.mark(cluster);
        let there = self.known.get(&identity);
        if there.is_none_or(|there| there.text != text) {
            self.changed.insert(identity);
        }
        self.known.insert(identity, Entry { cluster, text, mark });
    }

    pub(super) fn delete(&mut self, cluster: Number, identity: Identity) {
        if self.known.get(&identity).is_some_and(|entry| entry.cluster == cluster) {
            self.known.remove(&identity);
            self.changed.insert(identity);
        }
    }

    pub(super) fn count(&self, cluster: Number) -> usize {
        self.known.values().filter(|entry| entry.cluster == cluster).count()
    }

    pub(super) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// At most so many.
    pub(super) fn take_changes(&mut self, most: usize) -> Vec<LabelChange> {
        let mut changes = Vec::new();
        while changes.len() < most
            && let Some(identity) = self.changed.pop_first()
        {
            let text = self.known.get(&identity).map(|entry| entry.text.to_string());
            changes.push((identity, text));
        }
        changes
    }

    pub(super) fn tell_again(&mut self, identities: impl IntoIterator<Item = Identity>) {
        self.changed.extend(identities);
    }

    pub(super) fn tell_all_again(&mut self) {
        self.changed.extend(self.known.keys());
    }

    fn mark(&self, cluster: Number) -> u32 {
        self.marks.get(&cluster).copied().unwrap_or_default()
    }

    fn remove(&mut self, is_gone: impl Fn(&Entry) -> bool) {
        let changed = &mut self.changed;
        self.known.retain(|identity, entry| {
            let is_gone = is_gone(entry);
            if is_gone {
                changed.insert(*identity);
            }
            !is_gone
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(labels: &mut Labels) -> Vec<(u32, Option<String>)> {
        let changes = labels.take_changes(usize::MAX).into_iter();
        changes.map(|(identity, text)| (identity.0, text)).collect()
    }

    #[test]
    fn labels_that_are_cut_off_in_the_map_are_the_same_at_the_next_start() {
        let long = "a".repeat(1 << 20);
        let mut labels = Labels::default();
        labels.set(3, Identity(1), &long);
        let written = changes(&mut labels);
        let text = written[0].1.clone().expect("labels");
        assert!(text.len() < 512, "{}", text.len());
        let mut labels = Labels::default();
        labels.adopt(3, Identity(1), text);
        labels.set(3, Identity(1), &long);
        assert_eq!(changes(&mut labels), []);
    }

    #[test]
    fn only_what_is_another_than_in_the_map_is_written() {
        let mut labels = Labels::default();
        for (cluster, number, text) in [(3, 1, "app=a"), (3, 2, "app=b"), (9, 4, "app=d")] {
            labels.adopt(cluster, Identity(number), text.to_owned());
        }
        labels.begin(3);
        labels.set(3, Identity(1), "app=a");
        labels.set(3, Identity(3), "app=c");
        assert_eq!(changes(&mut labels), [(3, Some("app=c".to_owned()))]);
        labels.end(3);
        assert_eq!(changes(&mut labels), [(2, None)]);
        labels.end_adopted(&BTreeSet::from([3]));
        assert_eq!(changes(&mut labels), [(4, None)]);
        labels.delete(5, Identity(1));
        assert_eq!(changes(&mut labels), [], "another cluster's");
        labels.delete(3, Identity(1));
        labels.drain(3);
        assert_eq!(changes(&mut labels), [(1, None), (3, None)]);
    }
}
