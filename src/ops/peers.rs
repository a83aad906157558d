//! Who is at the other end of a flow, as a policy sees it: what the datapath finds out in `resolve.h`, of what is
//! attached or going to be.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;

use crate::kernel::{device, netns};
use crate::model::endpoint::{EndpointId, Role};
use crate::model::identity::Identity;
use crate::model::prefix::PrefixTable;
use crate::model::rule::Direction;
use crate::state::ipcache::Ipcache;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// The other end of a flow.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// Of the flow's first packet.
    pub direction: Direction,
    /// Its address.
    pub address: IpAddr,
    /// Who it is by its mark or flow label, as far as that was believed.
    pub claimed: Option<Identity>,
}

/// An endpoint, as far as it matters to who others are to it.
#[derive(Debug, Clone, Copy)]
pub struct Viewer {
    /// A workload, or a NIC.
    pub role: Role,
    /// Where its device is.
    pub netns: u64,
    /// It believes addresses.
    pub by_address: bool,
}

/// A line of the ipcache.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// Whose address it is.
    pub identity: Identity,
    /// A NIC's attach has added it.
    pub is_nics: bool,
    /// A workload's has, in this namespace.
    pub workload_in: Option<u64>,
}

/// Who is where.
pub struct Peers {
    lines: PrefixTable<Line>,
    /// The host's addresses, by namespace.
    local: HashMap<u64, HashSet<IpAddr>>,
}

impl Viewer {
    /// `None` if it has no configuration.
    pub fn of(endpoint: &Endpoint) -> Option<Viewer> {
        let by_address = endpoint.config.by_address != 0;
        Some(Viewer { role: endpoint.role()?, netns: endpoint.config.netns, by_address })
    }
}

impl Line {
    /// Somebody's.
    pub fn of(identity: Identity) -> Line {
        Line { identity, is_nics: false, workload_in: None }
    }

    /// That of an endpoint's own address.
    pub fn own(identity: Identity, of: &Viewer) -> Line {
        let workload_in = (of.role == Role::Container).then_some(of.netns);
        Line { identity, is_nics: of.role == Role::Netdev, workload_in }
    }
}

/// The lines of the ipcache; `attached` tells of the endpoints that they may be of.
pub fn lines(
    root: &Root,
    attached: impl Fn(EndpointId) -> Option<Viewer>,
) -> Result<HashMap<IpNet, Line>> {
    let lines = Ipcache::open(root)?.map(|ipcache| ipcache.lines()).transpose()?;
    let lines = lines.unwrap_or_default().into_iter().map(|line| {
        let owner = line.owner.and_then(&attached);
        let known = match owner {
            Some(owner) => Line::own(line.identity, &owner),
            None => Line::of(line.identity),
        };
        (line.prefix, known)
    });
    Ok(lines.collect())
}

impl Peers {
    /// By these lines; `viewers` are those of endpoints that are asked about, of whose namespaces the host's addresses are
    /// read.
    pub fn of(
        lines: impl IntoIterator<Item = (IpNet, Line)>,
        viewers: impl Iterator<Item = Viewer>,
    ) -> Result<Peers> {
        let mut local = HashMap::new();
        for viewer in viewers.filter(|viewer| viewer.role == Role::Container) {
            local.entry(viewer.netns).or_insert_with(|| {
                let addresses = netns::within(viewer.netns, device::local_addresses);
                addresses.ok().flatten().unwrap_or_default()
            });
        }
        Ok(Peers { lines: lines.into_iter().collect(), local })
    }

    /// At the end of a flow, as its policy sees it; `viewer` is `None` for what is gone.
    pub fn at(&self, end: &End, viewer: Option<&Viewer>) -> Identity {
        match end.direction {
            Direction::Ingress => self.sender(end, viewer),
            Direction::Egress => self.receiver(end.address, viewer),
        }
    }

    /// What the packets of a flow that an endpoint receives are going to prove, where nobody has seen them yet: of this
    /// host, and of its workloads, they come with a mark.
    pub fn proof(&self, sender: IpAddr, viewer: &Viewer) -> Option<Identity> {
        if viewer.role == Role::Netdev {
            return None;
        }
        let is_local = |local: &HashSet<IpAddr>| local.contains(&sender);
        if self.local.get(&viewer.netns).is_some_and(is_local) {
            return Some(Identity::HOST);
        }
        let line = self.lines.get(sender).filter(|line| line.workload_in == Some(viewer.netns));
        Some(line.map_or(Identity::WORLD, |line| line.identity))
    }

    fn receiver(&self, address: IpAddr, viewer: Option<&Viewer>) -> Identity {
        let workload = viewer.filter(|viewer| viewer.role == Role::Container);
        let local = workload.and_then(|viewer| self.local.get(&viewer.netns));
        match self.lines.get(address) {
            _ if local.is_some_and(|local| local.contains(&address)) => Identity::HOST,
            line => line.map_or(Identity::WORLD, |line| line.identity),
        }
    }

    /// By what its first packet has proven, else by its address: `source_identity()` of the datapath.
    fn sender(&self, end: &End, viewer: Option<&Viewer>) -> Identity {
        let is_workloads = viewer.is_none_or(|viewer| viewer.role == Role::Container);
        let is_final = |it: &Identity| !is_workloads || !it.is_reserved() || *it == Identity::HOST;
        if let Some(claimed) = end.claimed.filter(is_final) {
            return claimed;
        }
        let wants_proof = viewer.filter(|viewer| !viewer.by_address).map(|viewer| viewer.netns);
        let counts = |line: &&Line| {
            let is_unproven = line.workload_in.is_some() && line.workload_in == wants_proof;
            let says_host = line.is_nics || line.identity == Identity::HOST;
            !(is_unproven || is_workloads && says_host)
        };
        let line = self.lines.get(end.address).filter(counts);
        line.map_or(end.claimed.unwrap_or(Identity::WORLD), |line| line.identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::prefix::parse_prefix;

    const HERE: u64 = 1;

    fn viewer(role: Role, by_address: bool) -> Viewer {
        Viewer { role, netns: HERE, by_address }
    }

    fn peers() -> Peers {
        let line = |text: &str, identity, is_nics, workload_in| {
            let line = Line { identity: Identity(identity), is_nics, workload_in };
            (parse_prefix(text).unwrap(), line)
        };
        let lines = [
            line("10.0.0.0/8", 400, false, None),
            line("10.0.0.1", 7, true, None),
            line("10.0.0.2", 301, false, Some(HERE)),
            line("10.0.0.3", 302, false, Some(HERE + 1)),
        ];
        let local = HashMap::from([(HERE, HashSet::from(["192.0.2.1".parse().unwrap()]))]);
        Peers { lines: lines.into_iter().collect(), local }
    }

    #[test]
    fn a_peer_is_whom_the_policy_takes_it_for() {
        use Direction::{Egress, Ingress};
        let [workload, believer] = [false, true].map(|it| viewer(Role::Container, it));
        let nic = viewer(Role::Netdev, false);
        for (viewer, direction, address, claimed, wanted) in [
            (Some(&workload), Egress, "10.9.9.9", 0, 400),
            (Some(&workload), Egress, "10.0.0.2", 0, 301),
            (Some(&workload), Egress, "192.0.2.1", 0, 1),
            (Some(&workload), Egress, "198.51.100.7", 0, 2),
            (Some(&nic), Egress, "192.0.2.1", 0, 2),
            // By a mark.
            (Some(&workload), Ingress, "10.9.9.9", 301, 301),
            (Some(&workload), Ingress, "198.51.100.7", 1, 1),
            // By an address, which proves nothing of a workload of this host.
            (Some(&workload), Ingress, "10.9.9.9", 2, 400),
            (Some(&workload), Ingress, "10.0.0.1", 2, 2),
            (Some(&workload), Ingress, "10.0.0.2", 2, 2),
            (Some(&workload), Ingress, "10.0.0.3", 2, 302),
            (Some(&believer), Ingress, "10.0.0.2", 2, 301),
            (Some(&workload), Ingress, "198.51.100.7", 2, 2),
            (Some(&nic), Ingress, "10.9.9.9", 0, 400),
            (Some(&nic), Ingress, "10.0.0.2", 0, 2),
            (Some(&nic), Ingress, "10.9.9.9", 301, 301),
            (None, Ingress, "10.9.9.9", 2, 400),
            (None, Egress, "198.51.100.7", 0, 2),
        ] {
            let claimed = Some(Identity(claimed)).filter(|it| *it != Identity::UNKNOWN);
            let end = End { direction, address: address.parse().unwrap(), claimed };
            assert_eq!(peers().at(&end, viewer), Identity(wanted), "{end:?}");
        }
    }

    #[test]
    fn what_this_host_sends_will_prove_it_to_a_workload_and_nothing_to_a_nic() {
        let (workload, nic) = (viewer(Role::Container, false), viewer(Role::Netdev, false));
        let proof = |address: &str, viewer| peers().proof(address.parse().unwrap(), viewer);
        for (address, wanted) in
            [("192.0.2.1", 1), ("10.0.0.2", 301), ("10.0.0.3", 2), ("10.9.9.9", 2)]
        {
            assert_eq!(proof(address, &workload), Some(Identity(wanted)), "{address}");
            assert_eq!(proof(address, &nic), None, "{address}");
        }
    }
}
