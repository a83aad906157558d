//! Flows whose bucket is known: conntrack is so small that it has one bucket, or two.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use cilmark::model::enforcement::Mode;
use cilmark::program::load::Sizes;
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::case::{Case, Line, Trial};
use super::paths::{
    FROM_CONTAINER, Flags, Kind, OPEN_PORT, OTHER_PORT, PATHS, Pair, Path, packet, rules,
};
use super::random::{Setting, conntrack_map, line, new_flows, syn};
use super::vary::{self, Vary};
use super::{hot, keys};

/// With which conntrack has one bucket, and two.
const ONE: u32 = 4;
const TWO: u32 = 9;
/// Of flows that are tried, before it is given up.
const TRIES: u32 = 200;
/// Where the numbers of other flows begin.
const OTHERS: u32 = 1000;

impl Setting<'_> {
    /// New flows that find their bucket full, so that another has to go, and an established one that is in
    /// its second bucket.
    pub fn buckets(&self) -> Result<Vec<Case>> {
        let mut all = Vec::new();
        let rules = rules(hot::RULES)?;
        for (entries, name) in [(ONE, "full"), (TWO, "second")] {
            let root = self.root(&format!("bucket-{name}"))?;
            let sizes = Sizes { ct: Some(entries), ..Sizes::default() };
            let kind =
                Kind { mode: Mode::Enforce, rules: Some(&rules), stamp_remote: false, sizes };
            let pair = Pair::load(&root, 1, &kind)?;
            for family in [4, 6] {
                let map = conntrack_map(&root, family)?;
                let buckets = if entries == ONE { 1 } else { 2 };
                ensure!(map.max_entries() == buckets, "{entries} entries make another table");
                match entries {
                    ONE => {
                        for path in PATHS {
                            all.push(self.full(&pair, &path, family)?);
                        }
                    }
                    _ => all.push(self.second(&pair, &FROM_CONTAINER, family, &map)?),
                }
            }
        }
        Ok(all)
    }

    fn full(&self, pair: &Pair, path: &Path, family: u8) -> Result<Case> {
        // Only the port.
        let vary = Vary { keys: 1, ..new_flows(family, path) };
        let line = Line { bucket: "full", flows: ONE, ..line(path, family, "new") };
        let program = pair.program(path);
        let case = Case::random(line, program, syn(path, family)?, &vary, &self.empty)?;
        case.warmed(ONE)
    }

    fn second(&self, pair: &Pair, path: &Path, family: u8, map: &MapHandle) -> Result<Case> {
        let segment = |number| -> Result<Trial> {
            let ends = path.ends(family, keys::address(family, number));
            let bytes = packet(ends, (OTHER_PORT, OPEN_PORT), Flags::Ack)?;
            Ok(Trial { packet: bytes, ..syn(path, family)? })
        };
        let begin = |number| -> Result<u32> {
            Trial { repeat: 1, ..segment(number)? }.run(pair.program(path))?;
            bucket_of(map, keys::address(family, number))?.context("the flow is in no bucket")
        };
        for number in 0..TRIES {
            vary::empty(map)?;
            // The second only if that is emptier.
            let first = begin(number)?;
            vary::empty(map)?;
            let mut counts = [0; 2];
            let mut others = OTHERS..;
            while counts[first as usize] <= counts[1 - first as usize] {
                let other = others.next().context("no number is left")?;
                counts[begin(other)? as usize] += 1;
            }
            if begin(number)? != first {
                let line = Line { bucket: "second", flows: 1, ..line(path, family, "established") };
                let trial = Trial { repeat: hot::REPEAT, ..segment(number)? };
                return Case::hot(line, pair.program(path), trial, &self.empty);
            }
        }
        bail!("no flow came into its second bucket")
    }
}

/// Which bucket has a flow with this far end, whose address stands in the key as it is.
fn bucket_of(map: &MapHandle, remote: IpAddr) -> Result<Option<u32>> {
    let remote = match remote {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    for index in 0..map.max_entries() {
        let bucket = map.lookup(&index.to_ne_bytes(), MapFlags::ANY)?.unwrap_or_default();
        if bucket.windows(remote.len()).any(|bytes| bytes == remote) {
            return Ok(Some(index));
        }
    }
    Ok(None)
}
