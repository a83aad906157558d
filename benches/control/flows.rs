//! A million flows, listed and counted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use cilmark::kernel::hooks::HookKind;
use cilmark::model::enforcement::Mode;
use cilmark::model::rule::Direction;
use cilmark::state::conntrack::{Conntrack, Existing, Originator};
use cilmark::state::pin::Root;
use cilmark::state::registry::Endpoint;

use crate::endpoints::{Wanted, attach_by_binary, cilmark};
use crate::samples::{Samples, timed};

const FLOWS: u32 = 1_000_000;
const ROUNDS: usize = 5;

/// Adds to the samples.
pub fn measure(root: &Root, samples: &mut Samples) -> Result<()> {
    eprintln!("conntrack list, with {FLOWS} flows");
    let wanted = Wanted { device: 0, kind: HookKind::Clsact, mode: Mode::Audit };
    attach_by_binary(&wanted, &[&format!("--ct-entries={FLOWS}")])?;
    let id = root.endpoints()?.pop().context("nothing is attached")?;
    let scope = Endpoint::read(root, id)?.config.scope();
    let conntrack = Conntrack::open(root, None)?.context("there is no conntrack")?;
    let flows: Vec<Existing> = (0..FLOWS).map(flow).collect();
    let entered = conntrack.adopt(scope, 0, &flows)?.entered;
    ensure!(entered > FLOWS as usize * 999 / 1000, "only {entered} flows found room");
    for _ in 0..ROUNDS {
        for (of, arguments) in [
            ("all of them", &["conntrack", "list"][..]),
            ("all of them, as JSON", &["conntrack", "list", "--json"]),
            ("those with a port", &["conntrack", "list", "--port", "999"]),
        ] {
            let ms = timed(|| cilmark(arguments.iter().copied()))?.0;
            samples.add("conntrack list", of, FLOWS.into(), "s", ms / 1e3);
        }
    }
    cilmark(["detach", "--all"])
}

fn flow(number: u32) -> Existing {
    let end = |address: u32, port| {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + address)), port)
    };
    Existing {
        protocol: if number.is_multiple_of(2) { 6 } else { 17 },
        local: end(1, 80 + (number % 1000) as u16),
        remote: end(2 + number, 1024 + (number / 7 % 50_000) as u16),
        direction: Direction::Ingress,
        originator: Originator::Known,
        masqueraded: false,
        seconds_left: None,
    }
}
