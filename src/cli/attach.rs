//! `cilmark attach`.

mod args;
mod ask;
mod foreground;
mod login;
mod report;

use anyhow::{Context as _, Result};
pub use args::Args;
use foreground::Attached;
pub use login::ssh_server_port;

use super::{Context, until_interrupted};
use crate::model::enforcement::Grace;
use crate::model::spec::EndpointSpec;
use crate::ops;
use crate::ops::attach::{self, Terms};
use crate::ops::cluster::number::Numbers;
use crate::ops::{detach, spec};

pub fn run(context: &Context, args: Args) -> Result<()> {
    // From the start, so that Ctrl-C during the attachment ends in a detachment.
    let go_on = args.flags.foreground.then(until_interrupted).transpose()?;
    let target = args.flags.target.find()?;
    let kept = args.flags.keep.then(|| spec::kept(&context.root, &target.name)).transpose()?;
    let base = kept.clone().unwrap_or_else(|| EndpointSpec::new(&target.name));
    let mut spec = args.spec(&target.name, base);
    match &target.workload {
        // What is kept has addresses, or none on purpose.
        Some(workload) if args.flags.keep => workload.claim(&mut spec)?,
        Some(workload) => workload.complete(&mut spec)?,
        None => {}
    }
    Numbers::of(&context.root).complete(&mut spec)?;
    if let Some(rules) = args.flags.rules.read(|| context.names())? {
        spec.rules = Some(rules);
    }
    let mut terms = Terms {
        grace: args.flags.prompt.grace(),
        keeps_clock: args.flags.keep && args.flags.prompt.grace() == Grace::Permanent,
        login_port: ssh_server_port(),
        adopts_anew: args.names_adopt(),
        ifindex: target.workload.as_ref().map(|workload| workload.device.ifindex),
        kept,
        ..Terms::default()
    };
    let outlook = attach::examine(&context.root, &spec, &terms);
    let outlook = match args.flags.keep {
        true => outlook.context(
            "with what --keep takes from its spec (without it, only what is named counts)",
        ),
        false => outlook,
    }?;
    args.check(&spec)?;
    terms.consent = ask::ask(&args.flags.prompt, args.flags.keep, outlook)?;
    let attached = attach_locked(context, &args, &spec, &terms)?;
    match go_on {
        Some(go_on) => attached.stream(context, go_on),
        None => Ok(()),
    }
}

fn attach_locked(
    context: &Context,
    args: &Args,
    spec: &EndpointSpec,
    terms: &Terms,
) -> Result<Attached> {
    let root = &context.root;
    let _lock = ops::prepare(root, args.flags.mount_bpffs)?;
    // Before anything is replaced, which the end of a failed --foreground would take off.
    let events = args.flags.foreground.then(|| root.lock_events()).transpose();
    let attached = events.and_then(|events| {
        let report = attach::attach(root, spec, terms)?;
        report::print(context, &report)?;
        Ok(Attached::of(&report, events))
    });
    detach::leave_nothing_of_a_failure(root, attached)
}
