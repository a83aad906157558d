//! Endpoints that come and go: through the library in this process, and through the binary.

use std::ffi::OsStr;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cilmark::kernel::hooks;
use cilmark::kernel::hooks::{HookKind, Place};
use cilmark::kernel::{device, netns};
use cilmark::model::endpoint::{EndpointId, Role, Scope};
use cilmark::model::identity::Identity;
use cilmark::model::policing::Mode;
use cilmark::program::attach::{self};
use cilmark::program::load::{self, Features, Loaded, Policing, Sizes, Spec};
use cilmark::state::addresses::Addresses;
use cilmark::state::generations::Generations;
use cilmark::state::pin::Root;
use cilmark::state::registry::Endpoint;
use cilmark::state::registry::Inherited;

const IDENTITY: u32 = 1234;

/// What an endpoint is to be.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Which of [`make_devices`].
    pub device: u32,
    /// TCX or clsact.
    pub kind: HookKind,
    /// Of both directions.
    pub mode: Mode,
}

impl Wanted {
    /// The name of its device.
    pub fn device_name(&self) -> String {
        format!("c{}", self.device)
    }

    /// Its only address.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::from(0x0a00_0000 + 256 + self.device)
    }
}

/// Makes devices `c0` to at least `c(count - 1)`: both ends of veth pairs, which stay down, so that
/// nothing else in the kernel has to do with them.
pub fn make_devices(count: u32) -> Result<()> {
    const QUEUES: &str = "numtxqueues 1 numrxqueues 1";
    let pairs = (0..count).step_by(2).map(|first| {
        let second = first + 1;
        format!("link add c{first} {QUEUES} type veth peer name c{second} {QUEUES}\n")
    });
    let batch: String = pairs.collect();
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    ip.stdin.take().context("a pipe to ip")?.write_all(batch.as_bytes())?;
    let status = ip.wait()?;
    ensure!(status.success(), "make {count} devices: {status}");
    Ok(())
}

/// Runs the binary, which must succeed.
pub fn cilmark<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cilmark"));
    let output = command.args(arguments).output().context("start cilmark")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", output.status, error.trim());
    Ok(())
}

/// Attaches or replaces by the binary, with these arguments beside those that every endpoint has.
pub fn attach_by_binary(wanted: &Wanted, more: &[&str]) -> Result<()> {
    let name = wanted.device_name();
    let always = [
        format!("--id={IDENTITY}"),
        format!("--ip={}", wanted.address()),
        format!("--hook={}", wanted.kind),
        format!("--policy={}", wanted.mode),
    ];
    let first = ["attach", &name, "--role=container"];
    cilmark(first.into_iter().chain(always.iter().map(String::as_str)).chain(more.iter().copied()))
}

/// Attaches in this process, under the lowest free number.
pub fn attach_here(root: &Root, wanted: &Wanted) -> Result<(EndpointId, Loaded)> {
    let id = EndpointId::lowest_free(root.endpoints()?).context("no number is free")?;
    let spec = spec(wanted, id)?;
    let loaded = load_here(root, &spec, &Inherited::default())?;
    let addresses = Addresses::open(root)?.context("the maps of addresses are not pinned")?;
    let place = place(wanted, &spec);
    attach::attach(place, &root.endpoint(id), &loaded, || {
        addresses.register(&spec.config(), &spec.addresses)
    })?;
    Ok((id, loaded))
}

/// Replaces in this process what [`attach_here`] has attached.
pub fn replace_here(root: &Root, wanted: &Wanted, id: EndpointId) -> Result<Loaded> {
    let endpoint = Endpoint::read(root, id)?;
    let spec = spec(wanted, id)?;
    let config = spec.config();
    let loaded = load_here(root, &spec, &endpoint.inherited()?)?;
    let addresses = Addresses::open(root)?.context("the maps of addresses are not pinned")?;
    addresses.register(&config, &spec.addresses)?;
    let previous = endpoint.previous(&config)?;
    attach::replace(place(wanted, &spec), &root.endpoint(id), &loaded, &previous)?;
    Ok(loaded)
}

/// Detaches in this process.
pub fn detach_here(root: &Root, id: EndpointId) -> Result<()> {
    let endpoint = Endpoint::read(root, id)?;
    let pins = root.endpoint(id);
    let generations = Generations::open(root)?.context("no counters are pinned")?;
    attach::detach_links(&pins);
    hooks::take_off_all_filters(endpoint.config.ifindex, &endpoint.map_ids())?;
    generations.bump_endpoint(&endpoint.config);
    let addresses = Addresses::open(root)?.context("the maps of addresses are not pinned")?;
    addresses.forget(id, &[])?;
    pins.remove()
}

fn load_here(root: &Root, spec: &Spec, inherited: &Inherited) -> Result<Loaded> {
    load::load(root, spec.role, &spec.config(), &Sizes::default(), inherited)
}

fn place(wanted: &Wanted, spec: &Spec) -> Place {
    Place { kind: wanted.kind, ifindex: spec.device.ifindex, first: false }
}

fn spec(wanted: &Wanted, id: EndpointId) -> Result<Spec> {
    let device = device::by_name(&wanted.device_name())?;
    let anywhere = Place { kind: wanted.kind, ifindex: device.ifindex, first: false };
    Ok(Spec {
        id,
        role: Role::Container,
        identity: Identity(IDENTITY),
        scope: Scope::of(id.get().into()),
        netns: netns::current()?,
        source_mac: None,
        mac: device.mac,
        others: Vec::new(),
        addresses: vec![IpAddr::from(wanted.address())],
        nic_slot: 0,
        tc_priority: anywhere.tc_priority(),
        features: Features::default(),
        policy: Policing { ingress: wanted.mode, egress: wanted.mode, ..Policing::default() },
        device,
    })
}
