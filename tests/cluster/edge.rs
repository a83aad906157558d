//! The cluster `edge`: a store, hosts that share through it, and witnesses of all that becomes of both.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::checker::Range;
use super::client::Op;
use super::history::{History, Observed, Observer, Step, said};
use super::host::{Host, Lines, Settings, Workload};
use super::lab::Lab;
use super::store::Store;
use crate::common::machine::time_for;

/// The name and the number.
pub const EDGE: (&str, u16) = ("edge", 3);

/// How soon all agree after whatever has happened.
pub const AGREEMENT: Duration = Duration::from_secs(5);
/// How soon others know of an endpoint that comes or goes, as long as nothing is wrong.
pub const NEWS: Duration = Duration::from_secs(1);

/// Hosts of one cluster, all of whose cilmark-sync run.
pub struct Cluster<'lab> {
    pub store: Store<'lab>,
    pub hosts: Vec<Host<'lab>>,
    /// The addresses of a host's own endpoints.
    own: Mutex<BTreeMap<String, Vec<IpNet>>>,
    history: Mutex<History>,
    observers: Vec<Observer>,
}

impl<'lab> Cluster<'lab> {
    /// With so many members of its etcd, and so many hosts, which know the way to each other.
    pub fn start(lab: &'lab Lab, members: usize, hosts: u8, settings: Settings<'_>) -> Self {
        let store = lab.store(EDGE.0, EDGE.1, members);
        let hosts: Vec<Host<'_>> = (1..=hosts).map(|number| Host::new(lab, number)).collect();
        for host in &hosts {
            host.route_to(&hosts);
            host.join(&store, settings);
        }
        let history = Mutex::new(History::of(&store));
        let observers = hosts.iter().map(Observer::of).collect();
        let starting: Vec<_> = hosts.iter().map(Host::start_unready).collect();
        for (host, socket) in hosts.iter().zip(&starting) {
            host.is_ready(socket);
        }
        Cluster { store, hosts, own: Mutex::default(), history, observers }
    }

    /// Gives a host a workload with an endpoint: its identity, or its labels, and whatever else.
    pub fn attach(&self, host: usize, workload: u8, options: &str) -> Workload {
        let workload = self.hosts[host].workload(workload);
        self.attach_again(host, &workload, options);
        workload
    }

    /// The same of a workload that is there.
    pub fn attach_again(&self, host: usize, workload: &Workload, options: &str) {
        let host = &self.hosts[host];
        let Workload { device, address, address6, .. } = workload;
        host.cilmark_ok(&format!("attach {device} {options} --ip {address} --ip {address6}"));
        let addresses = [address, address6].map(|address| host_of(address));
        self.own
            .lock()
            .expect("not poisoned")
            .entry(host.name.clone())
            .or_default()
            .extend(addresses);
    }

    /// Takes an endpoint away.
    pub fn detach(&self, host: usize, workload: &Workload) {
        let host = &self.hosts[host];
        let Workload { device, address, address6, .. } = workload;
        host.cilmark_ok(&format!("detach {device}"));
        let addresses = [address, address6].map(|address| host_of(address));
        let mut own = self.own.lock().expect("not poisoned");
        own.get_mut(&host.name).expect("its endpoints").retain(|own| !addresses.contains(own));
    }

    /// What a host's ipcache is to have, if all that the store says has reached it, beside what is its own.
    pub fn expected_of(&self, host: &Host<'_>) -> Lines {
        let mut lines = said(&self.store, &Range::of(EDGE.1, 255));
        let own = self.own.lock().expect("not poisoned");
        for own in own.get(&host.name).into_iter().flatten() {
            lines.remove(own);
        }
        lines
    }

    /// Waits until the store says just these addresses of endpoints, and each host's ipcache says what the store does.
    pub fn agrees(&self) {
        self.agrees_within(AGREEMENT);
    }

    /// The same, so long at most.
    pub fn agrees_within(&self, within: Duration) {
        let deadline = Instant::now() + time_for(within);
        let rest = || deadline.saturating_duration_since(Instant::now());
        self.own_is_said_within(rest());
        self.agree(&self.hosts, rest());
    }

    /// Waits, so long at most, until the ipcaches of these hosts say what the store does.
    pub fn agree(&self, hosts: &[Host<'_>], within: Duration) {
        // What goes may not have gone from the store yet.
        super::within(within, "all to agree", || {
            hosts.iter().try_for_each(|host| host.has(&self.expected_of(host)))
        });
    }

    /// Waits until the store says all that is the hosts' own.
    pub fn own_is_said(&self) {
        self.own_is_said_within(time_for(AGREEMENT));
    }

    fn own_is_said_within(&self, within: Duration) {
        let own: Vec<IpNet> =
            self.own.lock().expect("not poisoned").values().flatten().copied().collect();
        super::within(within, "what the store says", || {
            let said = said(&self.store, &Range::of(EDGE.1, 255));
            let lacking: Vec<&IpNet> = own.iter().filter(|own| !said.contains_key(own)).collect();
            match lacking.is_empty() {
                true => Ok(()),
                false => Err(format!("the store lacks {lacking:?}")),
            }
        });
    }

    /// Waits until another host knows of these addresses with this number, or of none.
    pub fn is_known(
        &self,
        host: usize,
        workload: &Workload,
        number: Option<u32>,
        within: Duration,
    ) {
        let host = &self.hosts[host];
        for address in [&workload.address, &workload.address6] {
            super::within(time_for(within), "the news", || match host.number(address) {
                known if known == number => Ok(()),
                known => Err(format!("{address} is {known:?} on {}, not {number:?}", host.name)),
            });
        }
    }

    /// Makes another store of it, with a history of its own; that of the one before.
    pub fn begin_anew_with(&self, change: impl FnOnce(&Store<'_>)) -> Vec<Step> {
        change(&self.store);
        let mut history = self.history.lock().expect("not poisoned");
        std::mem::replace(&mut *history, History::of(&self.store)).steps()
    }

    /// All agree, and at no moment did a host have what the store had not held.
    pub fn ends_well(self) {
        self.ends_well_but(Vec::new(), "no complaint");
    }

    /// The same, behind the history of a store before this one, and but for complaints of this kind.
    pub fn ends_well_but(self, before: Vec<Step>, but: &str) {
        let (hosts, history) = self.witnessed(before);
        let complaints = hosts.iter().flat_map(|(_, observed)| observed.against(&history));
        let complaints: Vec<String> = complaints.filter(|it| !it.contains(but)).collect();
        assert_eq!(complaints, [""; 0]);
    }

    /// The same, and at no moment did a host have what the store had not held for so long.
    pub fn ends_well_in_time(self, lag: Duration) {
        let (hosts, history) = self.witnessed(Vec::new());
        let complaints = hosts.iter().flat_map(|(host, observed)| {
            let is_anothers = |prefix: &IpNet| !host.is_home_of(prefix);
            let late = observed.late(&history, time_for(lag), is_anothers);
            [observed.against(&history), late].concat()
        });
        assert_eq!(complaints.collect::<Vec<_>>(), [""; 0]);
    }

    /// All agree; what each host had, and what the store held, behind what one before it did.
    fn witnessed(self, mut history: Vec<Step>) -> (Vec<(Host<'lab>, Observed)>, Vec<Step>) {
        self.agrees();
        history.extend(self.history.into_inner().expect("not poisoned").end(&self.store));
        let observed = self.observers.into_iter().map(Observer::end);
        let hosts: Vec<_> = self.hosts.into_iter().zip(observed).collect();
        let has_seen = hosts.iter().any(|(_, observed)| !observed.steps.is_empty());
        assert!(has_seen && !history.is_empty(), "there is nothing to judge");
        (hosts, history)
    }
}

/// The prefix of an address.
pub fn host_of(address: &str) -> IpNet {
    IpNet::from(address.parse::<std::net::IpAddr>().expect("an address"))
}

/// A time for the configuration: long enough to see what happens meanwhile.
pub fn seconds(usual: u64) -> String {
    format!("{}s", time_for(Duration::from_secs(usual)).as_secs())
}

/// What a node writes of an address.
pub fn claim(address: &str, number: u32) -> Op {
    Op::Put(key_of(address), pair(address, number))
}

/// Its key.
pub fn key_of(address: &str) -> String {
    format!("cilium/state/ip/v1/default/{address}")
}

/// Its value.
pub fn pair(address: &str, number: u32) -> String {
    format!(
        r#"{{"IP":"{address}","Mask":null,"HostIP":"","ID":{number},"Key":0,"Metadata":"cilium-global:default:other:1"}}"#
    )
}
