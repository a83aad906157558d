//! Gives a device an identity and a rule, and takes both off again, by the library alone:
//! `cargo run --example attach DEV`, as root, with a BPF file system.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};
use cilmark::kernel::hooks::{HookKind, Place};
use cilmark::kernel::{device, log, netns, sys};
use cilmark::model::endpoint::{EndpointId, Role, Scope};
use cilmark::model::enforcement::Mode;
use cilmark::model::identity::{Identity, Names};
use cilmark::model::rule::Rule;
use cilmark::ops;
use cilmark::ops::attach::{self, Request};
use cilmark::ops::detach;
use cilmark::ops::rules::{self, Change};
use cilmark::program::load::{Enforcement, Features, Sizes, Spec};
use cilmark::state::pin::Root;
use cilmark::state::registry::Endpoint;

fn main() -> Result<()> {
    log::forward_libbpf();
    let device = device::by_name(&env::args().nth(1).context("which device?")?)?;
    let root = Root::new(PathBuf::from("/sys/fs/bpf/cilmark"));
    let _lock = ops::prepare(&root, false)?;
    let kind = if sys::has_tcx() { HookKind::Tcx } else { HookKind::Clsact };
    let place = Place { kind, ifindex: device.ifindex, first: false };
    let spec = Spec {
        id: EndpointId::lowest_free(root.endpoints()?).context("no number is free")?,
        role: Role::Container,
        identity: Identity(1234),
        scope: Scope::NOBODY,
        netns: netns::current()?,
        source_mac: None,
        mac: device.mac,
        others: Vec::new(),
        addresses: Vec::new(),
        nic_slot: 0,
        tc_priority: place.tc_priority(),
        features: Features::default(),
        policy: Enforcement { ingress: Mode::Enforce, ..Enforcement::default() },
        device,
    };
    let request = Request {
        spec: &spec,
        place,
        sizes: Sizes::default(),
        confirm: Default::default(),
        adopts: false,
    };
    attach::put_on(&root, &request, None)?;

    let endpoint = Endpoint::read(&root, spec.id)?;
    let rule = Rule::parse("allow ingress from 5678 tcp/443", &Names::default())?;
    let change = Change::plan(&root, &endpoint, |_, policy, kept| {
        policy.add(&[rule], kept);
        Ok(())
    })?;
    rules::apply(&[change], None)?;
    println!("endpoint {} of {} has a rule", spec.id, endpoint.device);

    detach::detach(&root, &endpoint)?;
    detach::remove_unused_root(&root)
}
