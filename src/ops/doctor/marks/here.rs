//! Who is on the ends of marks in one network namespace.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::slice;

use anyhow::Result;

use crate::kernel::sys::Hook;
use crate::model::endpoint::Role;
use crate::model::enforcement::Mode;
use crate::model::identity::{Identity, Names};
use crate::model::marks::walk::Hit;
use crate::ops::doctor::Host;
use crate::ops::marks::{self, Others, Way};
use crate::state::ipcache::Ipcache;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// How many identities of the ipcache are looked at, where a NIC stamps them: fewer, if each meets many rules.
const STAMPED: usize = 1000;

/// All of them.
pub struct Here<'a> {
    root: &'a Root,
    pub names: &'a Names,
    pub senders: Vec<Sender>,
    pub receivers: Vec<Receiver>,
    /// The identities that are in use, once somebody has asked for them.
    taken: OnceCell<HashSet<Identity>>,
    /// Identities of the ipcache that are not among the senders, since there are too many.
    pub left_out: usize,
    most_stamped: usize,
}

/// Whose marks packets carry.
pub struct Sender {
    pub identity: Identity,
    pub way: Way,
    /// Its mark is the only proof of who it is; of what a NIC stamps, the address is, too.
    pub is_workload: bool,
}

/// A workload with a policy, which asks who has sent it something.
pub struct Receiver {
    pub device: String,
    pub enforces: bool,
    pub by_address: bool,
    /// Rules of IP know it by its device, or by what that is in.
    names: Vec<String>,
}

impl<'a> Here<'a> {
    /// The endpoints of a namespace, which is the current one.
    pub fn read(host: &'a Host<'_>, namespace: u64, others: &Others) -> Result<Here<'a>> {
        let mut here = Here {
            root: host.root,
            names: &host.names,
            senders: Vec::new(),
            receivers: Vec::new(),
            taken: OnceCell::new(),
            left_out: 0,
            most_stamped: others.samples(STAMPED),
        };
        for endpoint in host.endpoints.iter().filter(|it| it.netns == namespace && !it.stale) {
            match endpoint.role() {
                Some(Role::Container) => here.add_workload(endpoint),
                Some(Role::Netdev) => here.add_nic(endpoint)?,
                None => {}
            }
        }
        Ok(here)
    }

    fn add_workload(&mut self, endpoint: &Endpoint) {
        let way = Way::of(&endpoint.device, Role::Container, false);
        let mode = endpoint.config.mode_on(Hook::Egress);
        if mode != Mode::Off {
            self.receivers.push(Receiver {
                device: endpoint.device.clone(),
                enforces: mode == Mode::Enforce,
                by_address: endpoint.config.by_address != 0,
                names: [slice::from_ref(&endpoint.device), &way.from].concat(),
            });
        }
        let identity = Identity(endpoint.config.identity);
        self.senders.push(Sender { identity, way, is_workload: true });
    }

    fn add_nic(&mut self, endpoint: &Endpoint) -> Result<()> {
        let identity = Identity(endpoint.config.identity);
        if identity != Identity::HOST {
            let way = Way::of(&endpoint.device, Role::Netdev, false);
            self.senders.push(Sender { identity, way, is_workload: false });
        }
        if endpoint.config.stamp_remote == 0 {
            return Ok(());
        }
        let way = Way::of(&endpoint.device, Role::Netdev, true);
        let known = match Ipcache::open(self.root)? {
            Some(ipcache) => ipcache.identities()?,
            None => Default::default(),
        };
        let is_stamped = |it: &Identity| *it != Identity::HOST && *it <= Identity::STAMPABLE_MAX;
        let mut stamped: Vec<Identity> = known.into_iter().filter(is_stamped).collect();
        // Whom the ipcache does not know.
        if !stamped.contains(&Identity::WORLD) {
            stamped.insert(0, Identity::WORLD);
        }
        self.left_out = self.left_out.max(stamped.len().saturating_sub(self.most_stamped));
        stamped.truncate(self.most_stamped);
        let sender = |identity| Sender { identity, way: way.clone(), is_workload: false };
        self.senders.extend(stamped.into_iter().map(sender));
        Ok(())
    }

    /// The identities that somebody has, or that rules speak of.
    pub fn taken(&self) -> Result<&HashSet<Identity>> {
        if let Some(taken) = self.taken.get() {
            return Ok(taken);
        }
        let taken = marks::taken(self.root)?;
        Ok(self.taken.get_or_init(|| taken))
    }

    /// The rules that each sender's packets meet.
    pub fn met<'o>(&self, others: &'o Others) -> Vec<Vec<Hit<'o>>> {
        let to: Vec<String> = self.receivers.iter().flat_map(|it| it.names.clone()).collect();
        self.senders.iter().map(|it| others.hits(it.identity, &it.way, &to)).collect()
    }
}
