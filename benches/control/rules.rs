//! One rule more and one less, with few and with many there.

use anyhow::{Context, Result};
use cilmark::kernel::hooks::HookKind;
use cilmark::model::enforcement::Mode;
use cilmark::model::identity::Names;
use cilmark::model::policy::Policy;
use cilmark::model::rule::Rule;
use cilmark::state::pin::Root;
use cilmark::state::policy::{PolicyMaps, Slot};
use cilmark::state::registry::Endpoint;

use crate::endpoints::{Wanted, attach_by_binary, cilmark};
use crate::samples::{Samples, timed};

const SIZES: [u32; 2] = [10, 16_000];
const ROUNDS: usize = 5;
const RULE: &str = "allow egress to any tcp/8080";

/// Adds to the samples.
pub fn measure(root: &Root, samples: &mut Samples) -> Result<()> {
    let wanted = Wanted { device: 0, kind: HookKind::Clsact, mode: Mode::Enforce };
    attach_by_binary(&wanted, &["--policy-entries=65536"])?;
    let id = root.endpoints()?.pop().context("nothing is attached")?;
    for size in SIZES {
        eprintln!("policy add, with {size} rules");
        let endpoint = Endpoint::read(root, id)?;
        let maps = PolicyMaps::of(root, id, endpoint.map_ids())?;
        let (ms, ()) = timed(|| maps.swap(&policy(size, &maps.read(Slot::Current)?)?))?;
        samples.add("policy change", "all rules", size.into(), "ms", ms);
        let device = wanted.device_name();
        for _ in 0..ROUNDS {
            let add = timed(|| cilmark(["policy", "add", &device, RULE]))?.0;
            let delete = timed(|| cilmark(["policy", "del", &device, RULE]))?.0;
            samples.add("policy change", "add one rule", size.into(), "ms", add);
            samples.add("policy change", "del one rule", size.into(), "ms", delete);
        }
    }
    cilmark(["detach", "--all"])
}

fn policy(rules: u32, before: &Policy) -> Result<Policy> {
    let texts = (0..rules).map(|number| {
        let direction = if number % 2 == 0 { "ingress from" } else { "egress to" };
        format!("allow {direction} {} tcp/{}", 256 + number, 1000 + number % 50_000)
    });
    let rules = texts.map(|text| Rule::parse(&text, &Names::default()));
    let rules: Vec<Rule> = rules.collect::<Result<_>>()?;
    Ok(before.replaced_by(&rules, &Policy::default()))
}
