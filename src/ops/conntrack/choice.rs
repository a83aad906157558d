//! Which flows are meant: those of a filter, with who is at their ends.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::owners::{Owner, Owners};
use crate::kernel::{device, netns};
use crate::model::endpoint::{EndpointId, Role};
use crate::model::flow::{Filter, Traits};
use crate::model::identity::Identity;
use crate::model::prefix::PrefixTable;
use crate::model::rule::Direction;
use crate::state::conntrack::Flow;
use crate::state::ipcache::Ipcache;
use crate::state::pin::Root;

/// A filter, with what it takes to tell who is at the ends of a flow.
pub struct Choice {
    filter: Filter,
    peers: Option<Peers>,
}

impl Choice {
    /// Reads what is to be looked up, if the filter asks for it.
    pub fn new(root: &Root, filter: Filter, owners: &Owners) -> Result<Choice> {
        let peers = filter.identity.is_some().then(|| Peers::read(root, owners));
        Ok(Choice { filter, peers: peers.transpose()? })
    }

    /// Whether it leaves nothing out.
    pub fn takes_all(&self) -> bool {
        self.filter.takes_all()
    }

    /// Whether a flow of these owners is meant.
    pub fn takes(&self, flow: &Flow, whose: &[&Owner]) -> bool {
        let traits = Traits {
            protocol: flow.protocol,
            local: SocketAddr::new(flow.local, flow.local_port),
            remote: SocketAddr::new(flow.remote, flow.remote_port),
            direction: flow.direction,
            progress: flow.progress,
        };
        self.filter.takes(&traits, |identity| {
            let end =
                End { direction: flow.direction, address: flow.remote, claimed: flow.claimed };
            let is_peer = |peers: &Peers| peers.at(&end, whose.first().copied()) == identity;
            whose.iter().any(|owner| owner.identity == identity)
                || self.peers.as_ref().is_some_and(is_peer)
        })
    }
}

/// The other end of a flow.
#[derive(Debug)]
struct End {
    direction: Direction,
    address: IpAddr,
    claimed: Option<Identity>,
}

/// Who is there.
struct Peers {
    lines: PrefixTable<Line>,
    /// The host's addresses, by namespace.
    local: HashMap<u64, HashSet<IpAddr>>,
}

/// A line of the ipcache.
struct Line {
    identity: Identity,
    /// A NIC's attach has added it.
    is_nics: bool,
    /// A workload's has, in this namespace.
    workload_in: Option<u64>,
}

impl Peers {
    fn read(root: &Root, owners: &Owners) -> Result<Peers> {
        let attached: HashMap<EndpointId, &Owner> =
            owners.all.iter().map(|owner| (owner.id, owner)).collect();
        let lines = Ipcache::open(root)?.map(|ipcache| ipcache.lines()).transpose()?;
        let lines = lines.unwrap_or_default().into_iter().map(|line| {
            let owner = line.owner.and_then(|id| attached.get(&id));
            let known = Line {
                identity: line.identity,
                is_nics: owner.is_some_and(|owner| owner.role == Role::Netdev),
                workload_in: owner
                    .filter(|owner| owner.role == Role::Container)
                    .map(|owner| owner.netns),
            };
            (line.prefix, known)
        });
        let lines = lines.collect();
        let mut local = HashMap::new();
        for owner in owners.all.iter().filter(|owner| owner.role == Role::Container) {
            local.entry(owner.netns).or_insert_with(|| {
                let addresses = netns::within(owner.netns, device::local_addresses);
                addresses.ok().flatten().unwrap_or_default()
            });
        }
        Ok(Peers { lines, local })
    }

    /// At the end of a flow, as its policy sees it; `owner` is `None` for what is gone.
    fn at(&self, end: &End, owner: Option<&Owner>) -> Identity {
        match end.direction {
            Direction::Ingress => self.sender(end, owner),
            Direction::Egress => self.receiver(end.address, owner),
        }
    }

    fn receiver(&self, address: IpAddr, owner: Option<&Owner>) -> Identity {
        let workload = owner.filter(|owner| owner.role == Role::Container);
        let local = workload.and_then(|owner| self.local.get(&owner.netns));
        match self.lines.get(address) {
            _ if local.is_some_and(|local| local.contains(&address)) => Identity::HOST,
            line => line.map_or(Identity::WORLD, |line| line.identity),
        }
    }

    /// By what its first packet has proven, else by its address: `source_identity()` of the datapath.
    fn sender(&self, end: &End, owner: Option<&Owner>) -> Identity {
        let is_workloads = owner.is_none_or(|owner| owner.role == Role::Container);
        let is_final = |it: &Identity| !is_workloads || !it.is_reserved() || *it == Identity::HOST;
        if let Some(claimed) = end.claimed.filter(is_final) {
            return claimed;
        }
        let wants_proof = owner.filter(|owner| !owner.by_address).map(|owner| owner.netns);
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
    use crate::model::endpoint::Scope;
    use crate::model::prefix::parse_prefix;

    const HERE: u64 = 1;

    fn owner(role: Role, by_address: bool) -> Owner {
        Owner {
            id: EndpointId::new(7).unwrap(),
            device: "red".to_owned(),
            fell_back: false,
            role,
            scope: Scope::of(1),
            identity: Identity(300),
            netns: HERE,
            by_address,
        }
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
        let [workload, believer] =
            [false, true].map(|by_address| owner(Role::Container, by_address));
        let nic = owner(Role::Netdev, false);
        for (owner, direction, address, claimed, wanted) in [
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
            assert_eq!(peers().at(&end, owner), Identity(wanted), "{end:?}");
        }
    }
}
