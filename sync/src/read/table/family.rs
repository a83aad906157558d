//! The winning claims: addresses of IPv4 by 4 bytes, those of IPv6 by 16, and prefixes; and which of them have changed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr};

use cilmark::model::identity::Identity;
use cilmark::model::prefix::is_host;
use cilmark::ops::cluster::lines::ClusterChange;
use ipnet::IpNet;

use super::claim::{Claim, State};

/// All of them.
#[derive(Default)]
pub(super) struct Families {
    v4: Family<u32>,
    v6: Family<[u8; 16]>,
    nets: Family<IpNet>,
}

struct Family<K> {
    claims: HashMap<K, Claim>,
    changed: Vec<K>,
}

impl<K> Default for Family<K> {
    fn default() -> Family<K> {
        Family { claims: HashMap::new(), changed: Vec::new() }
    }
}

/// Below this a map that has shrunk is not worth a smaller one.
const SMALL: usize = 1 << 16;

impl<K: Copy + Eq + Hash> Family<K> {
    fn put(&mut self, key: K, claim: Claim, has_more: bool, is_changed: bool) {
        match self.claims.entry(key) {
            Entry::Occupied(mut there) => {
                let was_changed = there.get().is_changed();
                there.insert(claim.with(was_changed || is_changed, has_more));
                if is_changed && !was_changed {
                    self.changed.push(key);
                }
            }
            Entry::Vacant(place) => {
                place.insert(claim.with(is_changed, has_more));
                if is_changed {
                    self.changed.push(key);
                }
            }
        }
    }

    /// Whether there was none.
    fn put_new(&mut self, key: K, claim: Claim) -> bool {
        let Entry::Vacant(place) = self.claims.entry(key) else { return false };
        place.insert(claim.with(true, false));
        self.changed.push(key);
        true
    }

    fn mark_changed(&mut self, key: K) {
        if let Some(claim) = self.claims.get(&key).copied() {
            self.put(key, claim, claim.has_more(), true);
        }
    }

    fn mark_all_changed(&mut self) {
        for (key, claim) in &mut self.claims {
            if !claim.is_changed() {
                *claim = claim.with(true, claim.has_more());
                self.changed.push(*key);
            }
        }
    }

    fn take(&mut self, most: usize, net: impl Fn(K) -> IpNet, into: &mut Vec<ClusterChange>) {
        let from = self.changed.len().saturating_sub(most);
        for key in self.changed.drain(from..) {
            let Entry::Occupied(mut there) = self.claims.entry(key) else { continue };
            let claim = *there.get();
            let identity = match claim.state {
                State::Nobody => {
                    there.remove();
                    None
                }
                _ => {
                    there.insert(claim.with(false, claim.has_more()));
                    Some(Identity(claim.identity))
                }
            };
            into.push((net(key), identity));
        }
    }

    fn shrink(&mut self) {
        if self.claims.capacity() > SMALL && self.claims.len() < self.claims.capacity() / 8 {
            self.claims.shrink_to(2 * self.claims.len());
        }
        if self.changed.is_empty() && self.changed.capacity() > SMALL {
            self.changed = Vec::new();
        }
    }
}

/// Does the same with whichever family a prefix is of.
macro_rules! in_family {
    ($self:ident, $prefix:expr, |$family:ident, $key:ident| $then:expr) => {
        match $prefix {
            IpNet::V4(net) if is_host($prefix) => {
                let ($family, $key) = (&$self.v4, net.addr().to_bits());
                $then
            }
            IpNet::V6(net) if is_host($prefix) => {
                let ($family, $key) = (&$self.v6, net.addr().octets());
                $then
            }
            net => {
                let ($family, $key) = (&$self.nets, *net);
                $then
            }
        }
    };
    ($self:ident, $prefix:expr, mut |$family:ident, $key:ident| $then:expr) => {
        match $prefix {
            IpNet::V4(net) if is_host($prefix) => {
                let ($family, $key) = (&mut $self.v4, net.addr().to_bits());
                $then
            }
            IpNet::V6(net) if is_host($prefix) => {
                let ($family, $key) = (&mut $self.v6, net.addr().octets());
                $then
            }
            net => {
                let ($family, $key) = (&mut $self.nets, *net);
                $then
            }
        }
    };
}

impl Families {
    /// The claim that wins.
    pub(super) fn get(&self, prefix: &IpNet) -> Option<Claim> {
        in_family!(self, prefix, |family, key| family.claims.get(&key).copied())
    }

    /// A first claim, which the ipcache need not be told.
    pub(super) fn insert(&mut self, prefix: &IpNet, claim: Claim) {
        self.put(prefix, claim, false, false);
    }

    /// A first claim, which the ipcache has to be told; whether there was none.
    pub(super) fn put_new(&mut self, prefix: &IpNet, claim: Claim) -> bool {
        in_family!(self, prefix, mut |family, key| family.put_new(key, claim))
    }

    pub(super) fn put(&mut self, prefix: &IpNet, claim: Claim, has_more: bool, is_changed: bool) {
        in_family!(self, prefix, mut |family, key| family.put(key, claim, has_more, is_changed));
    }

    pub(super) fn mark_changed(&mut self, prefix: &IpNet) {
        in_family!(self, prefix, mut |family, key| family.mark_changed(key));
    }

    pub(super) fn mark_all_changed(&mut self) {
        self.v4.mark_all_changed();
        self.v6.mark_all_changed();
        self.nets.mark_all_changed();
    }

    pub(super) fn for_each(&self, mut each: impl FnMut(IpNet, &Claim)) {
        self.v4.claims.iter().for_each(|(key, claim)| each(of_v4(*key), claim));
        self.v6.claims.iter().for_each(|(key, claim)| each(of_v6(*key), claim));
        self.nets.claims.iter().for_each(|(key, claim)| each(*key, claim));
    }

    pub(super) fn are_clean(&self) -> bool {
        self.v4.changed.is_empty() && self.v6.changed.is_empty() && self.nets.changed.is_empty()
    }

    /// With those that are about to go.
    pub(super) fn len(&self) -> usize {
        self.v4.claims.len() + self.v6.claims.len() + self.nets.claims.len()
    }

    pub(super) fn changed(&self) -> usize {
        self.v4.changed.len() + self.v6.changed.len() + self.nets.changed.len()
    }

    pub(super) fn changed_nets(&self) -> usize {
        self.nets.changed.len()
    }

    pub(super) fn take_addresses(&mut self, most: usize) -> Vec<ClusterChange> {
        let mut taken = Vec::new();
        self.v4.take(most, of_v4, &mut taken);
        self.v6.take(most - taken.len(), of_v6, &mut taken);
        taken
    }

    pub(super) fn take_nets(&mut self, most: usize) -> Vec<ClusterChange> {
        let mut taken = Vec::new();
        self.nets.take(most, |net| net, &mut taken);
        taken
    }

    pub(super) fn shrink(&mut self) {
        self.v4.shrink();
        self.v6.shrink();
        self.nets.shrink();
    }
}

fn of_v4(bits: u32) -> IpNet {
    IpNet::from(std::net::IpAddr::from(Ipv4Addr::from_bits(bits)))
}

fn of_v6(bytes: [u8; 16]) -> IpNet {
    IpNet::from(std::net::IpAddr::from(Ipv6Addr::from(bytes)))
}
