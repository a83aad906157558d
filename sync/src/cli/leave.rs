//! `cilmark cluster leave`.

use anyhow::{Context as _, Result, bail};
use cilmark::model::cluster::{Answer, Request};
use cilmark::ops::cluster::memory;
use cilmark::ops::cluster::number::ask;
use cilmark::output;

use super::process::wait_for;
use super::{Context, state};
use crate::config::Config;
use crate::service::state::State;
use crate::withdraw::withdraw;

pub fn run(context: &Context) -> Result<()> {
    let is_running = state::is_running(&context.root);
    let keys = match is_running {
        true => by_the_service(context)?,
        false => without_it(context)?,
    };
    memory::forget(&context.root)?;
    if context.json {
        return output::json(&serde_json::json!({ "withdrawn": keys, "was_running": is_running }));
    }
    output::line(&format!("{keys} keys are withdrawn"))?;
    if is_running {
        output::line("cilmark-sync ends; what it has read stays in the ipcache")?;
    }
    output::note(&format!(
        "This host stays out once the service is off (systemctl disable --now cilmark-sync) and {} is gone.",
        context.config.display()
    ));
    Ok(())
}

fn by_the_service(context: &Context) -> Result<usize> {
    match ask(&context.root, &Request::Leave)? {
        Answer::Done(keys) => Ok(keys),
        Answer::Error(why) => bail!("{why}"),
        Answer::Identity(_) => bail!("cilmark-sync is of another version: start it again"),
    }
}

fn without_it(context: &Context) -> Result<usize> {
    let config = Config::read(&context.config)?;
    let state = State::read(&context.root)?;
    let leases = state.map(|state| state.own.leases).unwrap_or_default();
    wait_for(async {
        withdraw(&config, &leases).await.with_context(
            || "nothing else is changed; what is left goes when its leases end, or ask again",
        )
    })
}
