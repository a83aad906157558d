//! A world with endpoints in it, loaded by the product's own loader and attached nowhere.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use cilmark::datapath::abi::{self, cm_config, cm_direction, cm_endpoint, cm_event};
use cilmark::datapath::device::{self, Framing};
use cilmark::datapath::ipcache::Ipcache;
use cilmark::datapath::load::{self, Features, Sizes, Spec};
use cilmark::datapath::maps::{self, Endpoints};
use cilmark::datapath::netns;
use cilmark::model::endpoint::{EndpointId, Role};
use cilmark::model::identity::Identity;
use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};

use super::World;
use super::program::Endpoint;

/// Endpoints of one world, with the maps that they share.
pub struct Lab {
    world: World,
    netns: u64,
    reader: RefCell<Option<Reader>>,
}

struct Reader {
    ring: RingBuffer<'static>,
    events: Rc<RefCell<Vec<cm_event>>>,
}

impl Lab {
    /// `None`, loudly, if the test does not run as root.
    pub fn new() -> Option<Lab> {
        let world = World::new()?;
        let netns = netns::current().expect("a network namespace");
        world.root().prepare(false).expect("the root");
        Some(Lab { world, netns, reader: RefCell::default() })
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
        let spec = Spec {
            id: EndpointId::new(7).expect("7"),
            role,
            identity: Identity(identity),
            netns: self.netns,
            device: device::by_name("lo").expect("lo"),
            mac: [0x02, 0, 0, 0, 0, 0x01],
            addresses: Vec::new(),
            tc_priority: 0,
            features: Features::default(),
        };
        Setup { lab: self, spec, tune: Box::new(|_| {}), traced: true }
    }

    /// Gives a prefix, or an address, an identity.
    pub fn ipcache(&self, prefix: &str, identity: u32) {
        let prefix = match prefix.parse::<IpAddr>() {
            Ok(address) => address.into(),
            Err(_) => prefix.parse().expect("a prefix"),
        };
        self.open_ipcache().set(&prefix, Identity(identity)).expect("set");
    }

    /// Makes an address one of the host's, as attaching a NIC with this identity does.
    pub fn host_address(&self, address: IpAddr, identity: u32) {
        let owner = EndpointId::new(9).expect("9");
        self.open_ipcache().add_own(address, Identity(identity), owner, true).expect("add");
    }

    fn open_ipcache(&self) -> Ipcache {
        let root = self.world.root();
        load::create_maps(&root, &Sizes::default()).expect("create the maps");
        Ipcache::open(&root).expect("open the ipcache").expect("the ipcache")
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
            pad: 0,
        };
        let root = self.world.root();
        load::create_maps(&root, &Sizes::default()).expect("create the maps");
        let endpoints = Endpoints::open(&root).expect("open").expect("the endpoint map");
        endpoints.set(address, &endpoint).expect("set");
    }

    /// Packets and bytes that `cm_metrics` counts for a reason.
    pub fn metric(&self, direction: cm_direction, reason: u32) -> (u64, u64) {
        let lines = maps::metrics(&self.world.root()).expect("read the metrics");
        lines
            .iter()
            .find(|line| line.direction == direction.0 && line.reason == reason)
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
pub struct Setup<'lab> {
    lab: &'lab Lab,
    spec: Spec,
    tune: Box<dyn Fn(&mut cm_config)>,
    traced: bool,
}

impl<'lab> Setup<'lab> {
    /// Gives it an address.
    pub fn address(mut self, address: impl Into<IpAddr>) -> Self {
        self.spec.addresses.push(address.into());
        self
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

    /// What the ARP responder answers.
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.spec.mac = mac;
        self
    }

    /// Makes it a device without an Ethernet header.
    pub fn without_ethernet(mut self) -> Self {
        self.spec.device.framing = Some(Framing::Ip);
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

    /// Loads its two programs.
    pub fn load(self) -> Endpoint<'lab> {
        let mut config = self.spec.config();
        (self.tune)(&mut config);
        let root = self.lab.world.root();
        let loaded = load::load(&root, self.spec.role, &config, &Sizes::default(), None);
        let loaded = loaded.unwrap_or_else(|error| panic!("{error:#}"));
        let endpoint = Endpoint {
            lab: self.lab,
            role: self.spec.role,
            has_ethernet: self.spec.device.framing == Some(Framing::Ethernet),
            loaded,
        };
        endpoint.trace_until(if self.traced { u64::MAX } else { 0 });
        endpoint
    }
}
