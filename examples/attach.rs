//! Gives a device an identity and a rule, adds another one, and takes all of it off again, by the library alone:
//! `cargo run --example attach DEV`, as root, with a BPF file system.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};
use cilmark::kernel::log;
use cilmark::model::endpoint::{Role, Selector};
use cilmark::model::enforcement::{Grace, Mode, Modes};
use cilmark::model::identity::Names;
use cilmark::model::rule::Rule;
use cilmark::model::spec::EndpointSpec;
use cilmark::ops;
use cilmark::ops::attach::{self, Terms};
use cilmark::ops::detach;
use cilmark::ops::rules::{self, Edit, Risk};
use cilmark::ops::targets::Targets;
use cilmark::state::pin::Root;
use cilmark::state::registry::Endpoint;

fn main() -> Result<()> {
    log::forward_libbpf();
    let root = Root::new(PathBuf::from("/sys/fs/bpf/cilmark"));
    let spec = EndpointSpec {
        role: Some(Role::Container),
        id: Some("1234".parse()?),
        policy: Modes { ingress: Mode::Enforce, egress: Mode::Off },
        rules: Some(vec!["allow ingress from 5678 tcp/443".to_owned()]),
        ..EndpointSpec::new(env::args().nth(1).context("which device?")?)
    };
    let _lock = ops::prepare(&root, false)?;
    let report = attach::attach(&root, &spec, &Terms::default())?;

    let endpoint = Endpoint::read(&root, report.plan.resolved.id)?;
    let rule = Rule::parse("allow ingress from 5678 udp/443", &Names::default())?;
    let targets = Targets::One(Selector::Id(endpoint.id));
    let (edit, grace) = (Edit::Add(vec![rule]), Grace::Permanent);
    let change = rules::Request { targets: &targets, netns: None, edit, grace };
    rules::change(&root, &change, &Risk::default())?;
    println!("endpoint {} of {} has two rules", endpoint.id, endpoint.device);

    detach::detach(&root, &endpoint)?;
    detach::remove_unused_root(&root)
}
