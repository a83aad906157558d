//! Labels as one string, which names an identity (Cilium pkg/labels/labels.go): `source:key=value;`, sorted by key.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

use cilmark::model::labels::Labels;

/// What each identity of a cluster carries, else no other cluster takes it.
pub const CLUSTER_KEY: &str = "io.cilium.k8s.policy.cluster";
/// The source of labels that bring none: Cilium's policies ask for it.
const USUAL_SOURCE: &str = "k8s";
/// Sources by which Cilium means something else than a workload's labels.
const RESERVED_SOURCES: [&str; 8] =
    ["reserved", "any", "unspec", "cidr", "cidrgroup", "fqdn", "node", "generated"];
/// The longest string, in bytes: it is part of keys, and Kubernetes' own sets of labels are shorter by far.
pub const LONGEST: usize = 2048;

/// A label of Cilium's string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label<'a> {
    /// Who says so; empty where the string has none.
    pub source: &'a str,
    /// What it says something of.
    pub key: &'a str,
    /// What it says, maybe nothing.
    pub value: &'a str,
}

/// Cilium's string of a workload's labels in a cluster, with the cluster's own label. A key may bring its source, such as
/// `container:app`; else it is `k8s`.
pub fn to_cilium(labels: &Labels, cluster: &str) -> Result<String> {
    ensure!(
        !labels.0.is_empty(),
        "there are no labels to make an identity of: give one, such as app=web"
    );
    let mut by_key = BTreeMap::from([(CLUSTER_KEY, (USUAL_SOURCE, cluster))]);
    for (name, value) in &labels.0 {
        let (source, key) = name.split_once(':').unwrap_or((USUAL_SOURCE, name));
        if (source, key, value.as_str()) == (USUAL_SOURCE, CLUSTER_KEY, cluster) {
            continue;
        }
        check(name, source, key, value)?;
        match by_key.insert(key, (source, value)) {
            Some(_) if key == CLUSTER_KEY => bail!(
                "label `{name}={value}` is not for workloads: this cluster's is `{cluster}`, and added by itself"
            ),
            Some(_) => bail!(
                "label `{key}` is there from two sources, and Cilium keeps one: leave one out"
            ),
            None => {}
        }
    }
    let text: String =
        by_key.iter().map(|(key, (source, value))| format!("{source}:{key}={value};")).collect();
    ensure!(
        text.len() <= LONGEST,
        "the labels are {} bytes long together; {LONGEST} is the most, since they are a key in etcd",
        text.len()
    );
    Ok(text)
}

/// Fails for what Cilium would read as something else, or where a key that contains it is altered: Go's path.Join, which
/// cleans paths, and the separators of the string.
fn check(name: &str, source: &str, key: &str, value: &str) -> Result<()> {
    let is_source =
        |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || matches!(it, b'-' | b'.');
    ensure!(
        !source.is_empty() && source.bytes().all(is_source),
        "label `{name}`: its source, before the colon, takes a-z, 0-9, - and . only"
    );
    ensure!(
        !RESERVED_SOURCES.contains(&source),
        "label `{name}`: source `{source}` is Cilium's own; take another one, such as container"
    );
    ensure!(!key.is_empty(), "label `{name}` has no key behind its source");
    ensure!(!key.contains('='), "label `{name}`: a key has no =");
    for (what, text) in [("key", key), ("value", value)] {
        let of = format!("label `{name}={value}`: its {what}");
        ensure!(!text.contains(';'), "{of} has a ;, which separates labels in Cilium's format");
        // What is no UTF-8 stands as characters of private use (cilmark::model::text).
        let is_odd = |c: char| c.is_control() || ('\u{f700}'..='\u{f7ff}').contains(&c);
        ensure!(!text.contains(is_odd), "{of} has bytes that are no text");
        ensure!(
            !text.contains("//") && !text.split('/').any(|it| it == "." || it == ".."),
            "{of} has // or a component . or .., which Cilium's paths do not keep"
        );
    }
    Ok(())
}

/// The labels of Cilium's string, in its order.
pub fn parse(text: &str) -> impl Iterator<Item = Label<'_>> {
    text.split(';').filter(|it| !it.is_empty()).map(|label| {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        let (source, key) = name.split_once(':').unwrap_or(("", name));
        Label { source, key, value }
    })
}

/// The cluster that a string names.
pub fn cluster_of(text: &str) -> Option<&str> {
    parse(text)
        .find(|label| (label.source, label.key) == (USUAL_SOURCE, CLUSTER_KEY))
        .map(|label| label.value)
}

/// A string for people: `app=web,container:tier=front`, without the cluster's label, sorted by key.
pub fn readable(text: &str) -> String {
    let mut labels: Vec<Label> = parse(text)
        .filter(|label| (label.source, label.key) != (USUAL_SOURCE, CLUSTER_KEY))
        .collect();
    labels.sort_by_key(|label| label.key);
    let shown: Vec<String> = labels
        .into_iter()
        .map(|Label { source, key, value }| match source {
            USUAL_SOURCE | "" => format!("{key}={value}"),
            _ => format!("{source}:{key}={value}"),
        })
        .collect();
    shown.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<String> {
        to_cilium(&text.parse().unwrap(), "edge")
    }

    #[test]
    fn labels_are_sorted_by_key_and_name_the_cluster() {
        assert_eq!(
            of("io.kubernetes.pod.namespace=prod,app=web").unwrap(),
            "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=edge;k8s:io.kubernetes.pod.namespace=prod;"
        );
        assert_eq!(of("zone=a").unwrap(), "k8s:io.cilium.k8s.policy.cluster=edge;k8s:zone=a;");
    }

    #[test]
    fn a_source_does_not_count_for_the_order() {
        assert_eq!(
            of("z:app=web,container:tier=front,b=").unwrap(),
            "z:app=web;k8s:b=;k8s:io.cilium.k8s.policy.cluster=edge;container:tier=front;"
        );
    }

    #[test]
    fn the_order_in_which_labels_are_given_does_not_count() {
        let all = ["app=web", "tier=front", "container:zone=a/b", "x.y/z=1"];
        let first = of(&all.join(",")).unwrap();
        for turn in 1..all.len() {
            let mut turned = all;
            turned.rotate_left(turn);
            assert_eq!(of(&turned.join(",")).unwrap(), first);
        }
    }

    #[test]
    fn the_clusters_own_label_may_be_given_but_no_other() {
        assert_eq!(
            of("app=web,io.cilium.k8s.policy.cluster=edge").unwrap(),
            of("app=web").unwrap()
        );
        for text in [
            "app=web,io.cilium.k8s.policy.cluster=other",
            "app=web,container:io.cilium.k8s.policy.cluster=edge",
        ] {
            assert!(of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_ciliums_format_does_not_keep_is_refused_by_name() {
        let mut wrong: Vec<(String, String)> =
            ["a//b", "a/../b", "a/./b", "..", ".", "../b", "a/..", "a;b", "a\nb", "\u{f7ff}"]
                .map(|value| ("app".to_owned(), value.to_owned()))
                .into();
        wrong.extend(
            [
                "a//b",
                "a/../b",
                "a;b",
                "a=b",
                "reserved:host",
                "any:a",
                "cidr:a",
                "K8s:a",
                ":a",
                "k8s:",
                "a b:c",
                "k8s:..",
            ]
            .map(|key| (key.to_owned(), "x".to_owned())),
        );
        for (key, value) in wrong {
            let labels = Labels([(key.clone(), value.clone())].into());
            let error = to_cilium(&labels, "edge").unwrap_err().to_string();
            assert!(error.contains(&format!("label `{key}")), "{error}");
        }
    }

    #[test]
    fn what_a_path_keeps_is_taken() {
        for text in ["app=a/b", "app=/etc", "app=a/", "x.y/z=...", "app=a:b=c", "app=", "app=ä"] {
            let text = of(text).unwrap();
            let cleaned: Vec<&str> =
                text.split('/').filter(|it| !it.is_empty() && *it != ".").collect();
            assert_eq!(cleaned.join("/"), text);
        }
    }

    #[test]
    fn two_sources_of_one_key_are_refused() {
        assert!(of("app=web,container:app=web").is_err());
    }

    #[test]
    fn labels_are_neither_none_nor_too_long() {
        assert!(of("").is_err());
        assert!(of(&format!("app={}", "x".repeat(LONGEST))).is_err());
        let rest = LONGEST - of("app=").unwrap().len();
        assert_eq!(of(&format!("app={}", "x".repeat(rest))).unwrap().len(), LONGEST);
        assert!(of(&format!("app={}", "x".repeat(rest + 1))).is_err());
    }

    #[test]
    fn what_was_written_is_read_again() {
        for text in ["app=web", "app=a:b=c", "container:app=web,zone=,x.y/z=1", "a:b:c=d"] {
            let written = of(text).unwrap();
            assert_eq!(cluster_of(&written), Some("edge"));
            let again: String = parse(&written)
                .map(|label| format!("{}:{}={};", label.source, label.key, label.value))
                .collect();
            assert_eq!(again, written);
            assert_eq!(of(&readable(&written)).unwrap(), written);
        }
    }

    #[test]
    fn people_see_neither_the_usual_source_nor_the_cluster() {
        for (text, shown) in [
            (
                "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=edge;k8s:io.kubernetes.pod.namespace=prod;",
                "app=web,io.kubernetes.pod.namespace=prod",
            ),
            ("container:app=web;k8s:io.cilium.k8s.policy.cluster=edge;", "container:app=web"),
            ("reserved:host=;", "reserved:host="),
            ("k8s:b=1;k8s:a=2;", "a=2,b=1"),
            ("app;", "app="),
            ("", ""),
        ] {
            assert_eq!(readable(text), shown);
        }
    }
}
