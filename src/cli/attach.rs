//! `cilmark attach`.

mod args;
mod ask;
mod foreground;
mod login;
mod report;

use anyhow::Result;
pub use args::Args;
use foreground::Attached;

use super::{Context, until_interrupted};
use crate::model::spec::EndpointSpec;
use crate::ops;
use crate::ops::attach::{self, Terms};
use crate::ops::detach;

pub fn run(context: &Context, args: Args) -> Result<()> {
    // From the start, so that Ctrl-C during the attachment ends in a detachment.
    let go_on = args.flags.foreground.then(until_interrupted).transpose()?;
    let spec = args.spec(EndpointSpec::new(&args.flags.device));
    let mut terms = Terms {
        grace: args.flags.prompt.grace(),
        login_port: login::ssh_server_port(),
        ..Terms::default()
    };
    let outlook = attach::examine(&context.root, &spec, &terms)?;
    args.check(&spec)?;
    terms.consent = ask::ask(&args.flags.prompt, outlook)?;
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
        report::print(context, &report, terms.grace)?;
        Ok(Attached::of(&report, events))
    });
    detach::leave_nothing_of_a_failure(root, attached)
}
