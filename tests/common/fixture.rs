//! A world with endpoints in it, loaded by the product's own loader and attached nowhere.

use std::cell::RefCell;
use std::mem::offset_of;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use cilmark::kernel::abi::{
    self, bss, cm_address, cm_config, cm_confirm, cm_direction, cm_endpoint, cm_event, cm_flow,
    cm_flow_size, cm_flows4, cm_flows6, cm_ipcache_entry,
};
use cilmark::kernel::device::{self, Framing};
use cilmark::kernel::{netns, sys};
use cilmark::model::endpoint::{EndpointId, Role, Scope};
use cilmark::model::identity::{Identity, Names};
use cilmark::model::policy::Policy;
use cilmark::model::prefix::parse_own;
use cilmark::model::rule::Rule;
use cilmark::program::load::{self, Enforcement, Features, Folding, Resolved, Sizes};
use cilmark::state::addresses::Addresses;
use cilmark::state::counters;
use cilmark::state::delivery;
use cilmark::state::endpoints::Endpoints;
use cilmark::state::generations::{Generations, Remotes};
use cilmark::state::ipcache::Ipcache;
use cilmark::state::nics::Nics;
use cilmark::state::policy::PolicyMaps;
use cilmark::state::registry::Inherited;
use ipnet::IpNet;
use libbpf_rs::{MapCore, MapFlags, MapHandle, RingBuffer, RingBufferBuilder};

use super::World;
use super::program::Endpoint;

/// All that can be switched on together; flow labels are believed of this prefix.
pub fn every_feature(trusted: &str) -> Features {
    Features {
        arp_responder: true,
        trust_proxy: true,
        flow_label: true,
        trust_flow_label: Some(trusted.parse().expect("a prefix")),
        stamp_remote: true,
        local_delivery: true,
        router: true,
        by_address: true,
        trust_marks: true,
        host_addresses_listed: false,
        given_addresses: true,
    }
}

/// A flow that conntrack knows.
#[derive(Debug, Clone, Copy)]
pub struct KnownFlow {
    pub flow: cm_flow,
    /// Ticks of the datapath.
    pub expires: u32,
}

impl Deref for KnownFlow {
    type Target = cm_flow;

    fn deref(&self) -> &cm_flow {
        &self.flow
    }
}

impl DerefMut for KnownFlow {
    fn deref_mut(&mut self) -> &mut cm_flow {
        &mut self.flow
    }
}

/// Ticks of so many seconds, in which the datapath tells ages.
pub fn ticks(seconds: u32) -> u32 {
    (seconds * sys::jiffies_per_second()) >> cm_flow_size::CM_FLOW_TICK_SHIFT.0
}

/// Now, in ticks.
pub fn now() -> u32 {
    (sys::jiffies64().expect("jiffies") >> cm_flow_size::CM_FLOW_TICK_SHIFT.0) as u32
}

/// Endpoints of one world, with the maps that they share.
pub struct Fixture {
    pub world: World,
    netns: u64,
    reader: RefCell<Option<Reader>>,
}

struct Reader {
    ring: RingBuffer<'static>,
    events: Rc<RefCell<Vec<cm_event>>>,
}

impl Fixture {
    /// `None`, loudly, if the test does not run as root.
    pub fn new() -> Option<Fixture> {
        let world = World::new()?;
        let netns = netns::current().expect("a network namespace");
        world.root().prepare(false).expect("the root");
        // Test runs are on this device: it shall be the one that the frames are addressed to.
        world.sh("ip link set lo address 02:00:00:00:00:bb");
        Some(Fixture { world, netns, reader: RefCell::default() })
    }

    /// A workload with this identity and no address; both of its programs report what they let
    /// pass.
    pub fn container(&self, identity: u32) -> Setup<'_> {
        self.setup(Role::Container, identity)
    }

    /// A NIC with this identity and no address; 1 is the host's.
    pub fn netdev(&self, identity: u32) -> Setup<'_> {
        self.setup(Role::Netdev, identity)
    }

    fn setup(&self, role: Role, identity: u32) -> Setup<'_> {
        let spec = Resolved {
            id: EndpointId::new(7).expect("7"),
            role,
            identity: Identity(identity),
            scope: Scope::NICS,
            netns: self.netns,
            device: device::by_name("lo").expect("lo"),
            source_mac: None,
            mac: [0x02, 0, 0, 0, 0, 0x01],
            others: Vec::new(),
            addresses: Vec::new(),
            shared: Vec::new(),
            tc_priority: 0,
            nic_slot: 0,
            features: Features::default(),
            policy: Enforcement::default(),
        };
        Setup {
            fixture: self,
            spec,
            tune: Box::new(|_| {}),
            sizes: Sizes::default(),
            traced: true,
            folding: Folding::On,
        }
    }

    /// Makes it a host that forwards: everything that is not its own goes on by a dummy neighbour's route.
    pub fn router(&self) {
        self.world.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 && \
             ip link add wan type veth peer name wan-peer && \
             ip link set wan up && ip link set wan-peer up && \
             ip addr add 192.168.7.1/24 dev wan && \
             ip -6 addr add fd00:7::1/64 dev wan nodad && \
             ip route add default via 192.168.7.2 && ip -6 route add default via fd00:7::2 dev wan");
    }

    /// Gives a prefix, or an address, an identity.
    pub fn ipcache(&self, prefix: &str, identity: u32) {
        let prefix = match prefix.parse::<IpAddr>() {
            Ok(address) => address.into(),
            Err(_) => prefix.parse().expect("a prefix"),
        };
        self.open_ipcache().set(&prefix, Identity(identity)).expect("set");
    }

    /// The same of an address as no command does it: nobody is told that verdicts about it are stale.
    pub fn ipcache_in_silence(&self, address: IpAddr, identity: u32) {
        let entry = cm_ipcache_entry { identity, ..cm_ipcache_entry::default() };
        let key = cm_address::from(address);
        let map = self.pinned("cm_ipcache");
        map.update(abi::bytes_of(&key), abi::bytes_of(&entry), MapFlags::ANY).expect("set");
    }

    /// Makes an address one of the host's, as attaching a NIC with this identity does.
    pub fn host_address(&self, address: IpAddr, identity: u32) {
        let owner = EndpointId::new(9).expect("9");
        self.open_ipcache().add_own(address, Identity(identity), owner, true).expect("add");
        self.register(address, Role::Netdev, true);
    }

    /// The map of identities, for more than one line.
    pub fn open_ipcache(&self) -> Ipcache {
        let root = self.world.root();
        let open = || Ipcache::open(&root).expect("open the ipcache");
        open().unwrap_or_else(|| {
            load::create_maps(&root, &Sizes::default()).expect("create the maps");
            open().expect("the ipcache")
        })
    }

    /// Registers an address, as attaching a device of this role does: in this network namespace,
    /// or another one.
    pub fn register(&self, address: IpAddr, role: Role, here: bool) {
        let role = match role {
            Role::Container => abi::cm_role::CM_ROLE_CONTAINER,
            Role::Netdev => abi::cm_role::CM_ROLE_NETDEV,
        };
        let endpoint = cm_endpoint {
            netns: if here { self.netns } else { self.netns + 1 },
            ifindex: 1,
            endpoint_id: 8,
            role: role.0 as u8,
            delivery: 0,
        };
        let root = self.world.root();
        load::create_maps(&root, &Sizes::default()).expect("create the maps");
        let endpoints = Endpoints::open(&root).expect("open").expect("the endpoint map");
        endpoints.set(address, &endpoint).expect("set");
    }

    /// Enters an endpoint's addresses and the program to call for them, as attaching it does.
    pub fn enter(&self, endpoint: &Endpoint<'_>) {
        let config = &endpoint.config;
        let root = self.world.root();
        let program = endpoint.loaded.callee();
        delivery::set_callee(&root, endpoint.id, program).expect("the program to call");
        let addresses = Addresses::open(&root).expect("open").expect("the maps");
        addresses.register(config, &config.addresses()).expect("the addresses");
    }

    /// Makes a workload one that has sent nothing yet.
    pub fn silence(&self, endpoint: &Endpoint<'_>) {
        endpoint.set_variable(offset_of!(bss, workload_mac), 0);
    }

    /// Changes what is registered of an address.
    pub fn change_endpoint(&self, address: impl Into<IpAddr>, change: impl Fn(&mut cm_endpoint)) {
        self.change_owner(address.into().into(), change);
    }

    /// The same of a prefix.
    pub fn change_owner(&self, own: IpNet, change: impl Fn(&mut cm_endpoint)) {
        let endpoints = Endpoints::open(&self.world.root()).expect("open").expect("the map");
        let mut endpoint = endpoints.get(own).expect("look up").expect("an endpoint");
        change(&mut endpoint);
        endpoints.set(own, &endpoint).expect("set");
    }

    /// Gives an endpoint these rules in place of all that it had. The answer knows their numbers.
    pub fn rules<T: AsRef<str>>(&self, endpoint: &Endpoint<'_>, rules: &[T]) -> Policy {
        let parse = |text: &T| Rule::parse(text.as_ref(), &Names::default()).expect("a rule");
        let rules: Vec<Rule> = rules.iter().map(parse).collect();
        let policy = Policy::default().replaced_by(&rules, &Policy::default());
        let root = self.world.root();
        root.endpoint(endpoint.id).create().expect("the endpoint's directory");
        let map_ids = endpoint.loaded.map_ids().expect("the programs' maps");
        let maps = PolicyMaps::of(&root, endpoint.id, map_ids).expect("the policy maps");
        maps.swap(&policy).unwrap_or_else(|error| panic!("{error:#}"));
        policy
    }

    /// Makes every verdict that was cached stale, as a change of a prefix does.
    pub fn bump_generation(&self) {
        let generations = Generations::open(&self.world.root()).expect("open");
        generations.expect("the counters").bump_remotes(&Remotes::all());
    }

    /// What conntrack knows, IPv4 first.
    pub fn flows(&self) -> Vec<KnownFlow> {
        let mut flows = Vec::new();
        self.change_flows(|flow| flows.push(*flow));
        flows
    }

    /// Changes every flow that conntrack knows: to make it old, say. Not while packets are on their way.
    pub fn change_flows(&self, mut change: impl FnMut(&mut KnownFlow)) {
        let buckets = |name: &str, change: &mut dyn FnMut(&[u8]) -> Vec<u8>| {
            let map = self.pinned(name);
            for key in 0..map.max_entries() {
                let key = key.to_ne_bytes();
                let bucket = map.lookup(&key, MapFlags::ANY).expect("look up").expect("a bucket");
                if bucket[8..16] != [0; 8] {
                    map.update(&key, &change(&bucket), MapFlags::ANY).expect("update");
                }
            }
        };
        macro_rules! changed {
            ($bucket:ty) => {
                &mut |bytes: &[u8]| {
                    let mut bucket: $bucket = abi::from_bytes(bytes).expect("a bucket");
                    for way in 0..bucket.slots.len() {
                        if bucket.ways.tag[way] != 0 {
                            let slot = &mut bucket.slots[way];
                            let expires = bucket.ways.expires[way];
                            let mut flow = KnownFlow { flow: slot.flow, expires };
                            change(&mut flow);
                            (slot.flow, bucket.ways.expires[way]) = (flow.flow, flow.expires);
                        }
                    }
                    abi::bytes_of(&bucket).to_vec()
                }
            };
        }
        buckets("cm_flows4", changed!(cm_flows4));
        buckets("cm_flows6", changed!(cm_flows6));
    }

    /// Forgets every flow, and the ports of every fragment.
    pub fn flush_conntrack(&self) {
        for map in ["cm_flows4", "cm_flows6"].map(|name| self.pinned(name)) {
            let (count, size) = (map.max_entries(), map.value_size() as usize);
            let keys: Vec<u8> = (0..count).flat_map(u32::to_ne_bytes).collect();
            let zeros = vec![0; size * count as usize];
            map.update_batch(&keys, &zeros, count, MapFlags::ANY, MapFlags::ANY).expect("empty");
        }
        for map in ["cm_frags4", "cm_frags6"].map(|name| self.pinned(name)) {
            // Not while walking: a walk begins anew behind a key that is gone.
            for key in map.keys().collect::<Vec<_>>() {
                map.delete(&key).expect("delete");
            }
        }
    }

    /// What a shared map holds, a line for each entry.
    pub fn dump(&self, name: &str, show: impl Fn(&[u8]) -> String) -> Vec<String> {
        let map = self.pinned(name);
        let value = |key: &Vec<u8>| map.lookup(key, MapFlags::ANY).expect("look up").expect(name);
        map.keys().map(|key| format!("{name} {key:02x?} {}", show(&value(&key)))).collect()
    }

    /// How many first fragments' ports are kept.
    pub fn fragments(&self) -> usize {
        ["cm_frags4", "cm_frags6"].map(|name| self.pinned(name).keys().count()).iter().sum()
    }

    fn pinned(&self, name: &str) -> MapHandle {
        MapHandle::from_pinned_path(self.world.root().map(name)).expect(name)
    }

    /// Packets and bytes that are counted for a reason, or how often for a counter.
    pub fn metric(&self, direction: cm_direction, reason: u32) -> (u64, u64) {
        let lines = counters::read(&self.world.root()).expect("read the metrics");
        lines
            .iter()
            .find(|line| line.direction == direction.0 && line.of.number() == reason)
            .map_or((0, 0), |line| (line.sum.packets, line.sum.bytes))
    }

    /// The events since the last call.
    pub fn events(&self) -> Vec<cm_event> {
        let mut reader = self.reader.borrow_mut();
        let reader = reader.get_or_insert_with(|| Reader::new(&self.world));
        reader.ring.consume().expect("read cm_events");
        reader.events.take()
    }
}

impl Reader {
    fn new(world: &World) -> Reader {
        let map = MapHandle::from_pinned_path(world.root().map("cm_events")).expect("cm_events");
        let events = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&events);
        let mut builder = RingBufferBuilder::new();
        let push = move |bytes: &[u8]| {
            sink.borrow_mut().push(abi::from_bytes(bytes).expect("an event"));
            0
        };
        builder.add(&map, push).expect("add cm_events");
        Reader { ring: builder.build().expect("read cm_events"), events }
    }
}

/// An endpoint before it is loaded.
pub struct Setup<'fixture> {
    fixture: &'fixture Fixture,
    spec: Resolved,
    tune: Box<dyn Fn(&mut cm_config)>,
    sizes: Sizes,
    traced: bool,
    folding: Folding,
}

impl<'fixture> Setup<'fixture> {
    /// Gives it an address.
    pub fn address(mut self, address: impl Into<IpAddr>) -> Self {
        self.spec.addresses.push(IpNet::from(address.into()));
        self
    }

    /// Tells it of addresses that other devices of the host have.
    pub fn others(mut self, others: impl IntoIterator<Item = IpAddr>) -> Self {
        self.spec.others.extend(others);
        self
    }

    /// Gives it a prefix, or an address.
    pub fn own(mut self, own: &str) -> Self {
        self.spec.addresses.push(parse_own(own).expect("an address or a prefix"));
        self
    }

    /// Gives it an address or a prefix that others may have, too.
    pub fn shared(self, own: &str) -> Self {
        let mut setup = self.own(own);
        setup.spec.shared.extend(setup.spec.addresses.last());
        setup
    }

    /// Switches these features on, and the others off.
    pub fn features(mut self, features: Features) -> Self {
        self.spec.features = features;
        self
    }

    /// Switches one feature on, beside those that are.
    pub fn feature(mut self, switch: impl Fn(&mut Features)) -> Self {
        switch(&mut self.spec.features);
        self
    }

    /// What its policy does.
    pub fn policy(mut self, policy: Enforcement) -> Self {
        self.spec.policy = policy;
        self
    }

    /// What the ARP responder answers.
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.spec.mac = mac;
        self
    }

    /// The only MAC that it may send from.
    pub fn source_mac(mut self, mac: [u8; 6]) -> Self {
        self.spec.source_mac = Some(mac);
        self
    }

    /// Puts it on another device than loopback.
    pub fn device(mut self, name: &str) -> Self {
        self.spec.device = device::by_name(name).expect("the device");
        self
    }

    /// Makes it a device without an Ethernet header.
    pub fn without_ethernet(mut self) -> Self {
        self.spec.device.framing = Some(Framing::Ip);
        self
    }

    /// Gives it another number, which conntrack tells workloads apart by here.
    pub fn id(mut self, id: u16) -> Self {
        self.spec.id = EndpointId::new(id).expect("1 to 65535");
        self
    }

    /// Gives it another slot than 0, which a NIC with a policy has to have for its own.
    pub fn slot(mut self, slot: u8) -> Self {
        self.spec.nic_slot = slot;
        self
    }

    /// How many flows each map of conntrack takes, if it makes them.
    pub fn conntrack_entries(mut self, entries: u32) -> Self {
        self.sizes.ct = Some(entries);
        self
    }

    /// Changes what no command changes.
    pub fn tune(mut self, tune: impl Fn(&mut cm_config) + 'static) -> Self {
        self.tune = Box::new(tune);
        self
    }

    /// Leaves out the reports of what passes, as when nobody reads them.
    pub fn untraced(mut self) -> Self {
        self.traced = false;
        self
    }

    /// Leaves its programs as they were compiled.
    pub fn unfolded(mut self) -> Self {
        self.folding = Folding::Off;
        self
    }

    /// Loads its two programs.
    pub fn load(mut self) -> Endpoint<'fixture> {
        if self.spec.role == Role::Container {
            self.spec.scope = Scope::of(self.spec.id.get().into());
        }
        let mut config = self.spec.config();
        // No device here has them.
        config.given_addresses = 1;
        (self.tune)(&mut config);
        let root = self.fixture.world.root();
        let (role, inherited) = (self.spec.role, Inherited::default());
        let loaded = load::load_as(self.folding, &root, role, &config, &self.sizes, &inherited);
        let loaded = loaded.unwrap_or_else(|error| panic!("{error:#}"));
        if let Some(nics) = Nics::open(&root).expect("open the NICs") {
            nics.enter(&config, cm_confirm::default(), false).expect("enter the NIC");
        }
        let endpoint = Endpoint {
            fixture: self.fixture,
            id: self.spec.id,
            config,
            role: self.spec.role,
            ifindex: self.spec.device.ifindex,
            has_ethernet: self.spec.device.framing == Some(Framing::Ethernet),
            loaded,
        };
        endpoint.trace_until(if self.traced { u64::MAX } else { 0 });
        endpoint
    }
}
