//! By which NICs the flows of this host go.

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::Result;

use super::flows::{Key, Known};
use super::subject::Subject;
use crate::kernel::device::{self, Route};
use crate::model::endpoint::Role;

/// What the routing tables have said so far.
#[derive(Default)]
pub struct Ways {
    /// Of some flow nobody has seen by which NICs it goes.
    pub are_guessed: bool,
    by_route: HashMap<(IpAddr, IpAddr), Vec<usize>>,
}

impl Ways {
    /// The NICs whose rules a flow meets, by their places among the subjects: those that it has passed, else those
    /// to which the routing tables lead. What a NIC has taken over may have passed another one.
    pub fn of(&mut self, key: &Key, known: &Known, subjects: &[Subject]) -> Result<Vec<usize>> {
        let passed = nics(subjects).filter(|(_, it)| it.has_passed(known.passed));
        let passed: Vec<usize> = passed.map(|(index, _)| index).collect();
        if !passed.is_empty() && !known.was_adopted {
            return Ok(passed);
        }
        self.are_guessed = true;
        let by_route = self.by_route(key, subjects)?;
        let others: Vec<usize> = by_route.into_iter().filter(|it| !passed.contains(it)).collect();
        Ok([passed, others].concat())
    }

    fn by_route(&mut self, key: &Key, subjects: &[Subject]) -> Result<Vec<usize>> {
        let (own, other) = (key.local.ip(), key.remote.ip());
        if let Some(found) = self.by_route.get(&(own, other)) {
            return Ok(found.clone());
        }
        let is_way: Box<dyn Fn(&Subject) -> bool> = match device::route_between(own, other)? {
            // Each link has them, and no table tells of which one it is.
            _ if is_of_link(other) => Box::new(|_| true),
            Some(Route::By(ifindex)) => Box::new(move |it| it.carries.contains(&ifindex)),
            Some(Route::Here) => Box::new(|_| false),
            None => Box::new(move |it| it.addresses.iter().any(|of| of.contains(&own))),
        };
        let found: Vec<usize> =
            nics(subjects).filter(|(_, it)| is_way(it)).map(|(at, _)| at).collect();
        self.by_route.insert((own, other), found.clone());
        Ok(found)
    }
}

fn nics(subjects: &[Subject]) -> impl Iterator<Item = (usize, &Subject)> {
    subjects.iter().enumerate().filter(|(_, it)| it.viewer.role == Role::Netdev)
}

fn is_of_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
    }
}
