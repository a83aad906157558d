//! What the keys of a cluster say, by Cilium's rules.

use std::collections::{BTreeMap, BTreeSet};

use cilmark::model::identity::Identity;

use super::{Findings, reading};
use crate::cilium::accept::{self, Refusal};
use crate::cilium::keys::Places;
use crate::cilium::pair::{Pair, node_of};
use crate::cilium::range::Range;
use crate::config::Config;
use crate::etcd::{Client, KeyValue};

/// What else is asked of the keys.
#[derive(Debug, Default)]
pub struct Seen {
    /// Addresses that this host says, those without a lease among them.
    pub own: usize,
    /// Those without.
    pub own_without_lease: Vec<String>,
    /// Addresses of others without one.
    pub others_without_lease: Vec<String>,
}

/// Keys that do not count, by reason: how many, and one of them.
type Refused = BTreeMap<Refusal, (usize, String)>;

/// Reads all addresses and identities.
pub async fn examine(
    findings: &mut Findings,
    config: &Config,
    client: &Client,
    places: &Places,
    name: &str,
    range: &Range,
) -> Seen {
    let mut seen = Seen::default();
    let (mut labels, mut refused) = (BTreeSet::new(), Refused::new());
    let listed = client
        .list(&places.identities, |page| {
            for it in page {
                let rest = it.key.strip_prefix(&places.identities).unwrap_or_default();
                match accept::identity(rest, &it.value, name, range) {
                    Ok((identity, _)) => _ = labels.insert(identity),
                    Err(reason) => count(&mut refused, reason, it.key),
                }
            }
        })
        .await;
    if let Err(error) = listed {
        reading::denied(findings, &format!("identities ({})", places.identities), &error);
        return seen;
    }
    tell(findings, "identities", labels.len(), &refused);
    let (mut addresses, mut refused) = (0, Refused::new());
    let mut nameless: BTreeMap<Identity, String> = BTreeMap::new();
    let listed = client
        .list(&places.addresses, |page| {
            for it in page {
                let rest = it.key.strip_prefix(&places.addresses).unwrap_or_default();
                match accept::address(rest, &it.value, range, &config.limits) {
                    Ok((_, identity)) => {
                        addresses += 1;
                        if range.contains(identity.0) && !labels.contains(&identity) {
                            nameless.entry(identity).or_insert_with(|| it.key.clone());
                        }
                        seen.add(&config.node, it);
                    }
                    Err(reason) => count(&mut refused, reason, it.key),
                }
            }
        })
        .await;
    if let Err(error) = listed {
        reading::denied(findings, &format!("addresses ({})", places.addresses), &error);
        return seen;
    }
    tell(findings, "addresses", addresses, &refused);
    if let Some((identity, key)) = nameless.first_key_value() {
        findings.warning(
            "labels",
            format!("{} identities have addresses and no labels, such as {identity} of {key}", nameless.len()),
            "Cilium's agents cannot select them; who uses them writes their labels again within minutes",
        );
    }
    seen
}

impl Seen {
    fn add(&mut self, node: &str, it: KeyValue) {
        let is_own = Pair::read(&it.value).is_ok_and(|pair| node_of(&pair.metadata) == Some(node));
        self.own += usize::from(is_own);
        match (is_own, it.lease) {
            (_, Some(_)) => {}
            (true, None) => self.own_without_lease.push(it.key),
            (false, None) => self.others_without_lease.push(it.key),
        }
    }
}

fn count(refused: &mut Refused, reason: Refusal, key: String) {
    refused.entry(reason).or_insert((0, key)).0 += 1;
}

fn tell(findings: &mut Findings, what: &'static str, good: usize, refused: &Refused) {
    findings.ok(what, format!("{good} that count"));
    for (reason, (count, key)) in refused {
        let says = format!("{count} do not count, such as {key}: {reason}");
        findings.warning(what, says, "whoever writes them has to write them otherwise");
    }
}
