//! A million hosts and a million prefixes, from a file into maps that are new each time.

use std::collections::HashSet;
use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cilmark::state::layout;
use cilmark::state::pin::Root;
use ipnet::IpNet;

use crate::endpoints::cilmark;
use crate::random::Random;
use crate::samples::{Samples, cost_of, timed};

const ENTRIES: usize = 1_000_000;
/// Room for what is set one by one.
const ROOM: usize = ENTRIES + 100;
const MOST_ROUNDS: usize = 5;
/// No further round of both begins after this.
const LONGEST: Duration = Duration::from_secs(12);
/// Of the single changes.
const REPEAT: usize = 5;

/// What the file is full of.
#[derive(Clone, Copy)]
enum Kind {
    Hosts,
    Prefixes,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Hosts => "hosts",
            Kind::Prefixes => "prefixes",
        }
    }

    /// The `number`th of those that no file has.
    fn single(self, number: usize) -> String {
        match self {
            Kind::Hosts => format!("9.9.9.{number}"),
            Kind::Prefixes => format!("9.9.{number}.0/24"),
        }
    }
}

/// Adds to the samples.
pub fn measure(samples: &mut Samples) -> Result<()> {
    let mut files = Vec::new();
    for kind in [Kind::Hosts, Kind::Prefixes] {
        eprintln!("{}: a file, and single changes of an empty table", kind.name());
        files.push((kind, write_file(kind)?));
        let table = Table::new("empty", kind);
        table.change_single(samples, 0)?;
        table.remove()?;
    }
    let start = Instant::now();
    for round in 0..MOST_ROUNDS {
        if round > 0 && start.elapsed() > LONGEST {
            break;
        }
        for (kind, file) in &files {
            let table = Table::new(kind.name(), *kind);
            eprintln!("ipcache load of {ENTRIES} {}", kind.name());
            let (cost, ()) = cost_of(|| table.load(file))?;
            samples.add("ipcache load", kind.name(), ENTRIES as u64, "s", cost.ms / 1e3);
            samples.add("ipcache load, CPU", kind.name(), ENTRIES as u64, "s", cost.cpu_ms / 1e3);
            if round == 0 {
                table.change_single(samples, ENTRIES as u64)?;
            }
            table.remove()?;
        }
    }
    Ok(())
}

/// A root of its own, which goes with what is in it.
struct Table {
    kind: Kind,
    root: Root,
}

impl Table {
    fn new(name: &str, kind: Kind) -> Table {
        Table { kind, root: Root::new(PathBuf::from("/sys/fs/bpf").join(name)) }
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let root = self.root.path().to_str().context("a path of letters")?;
        cilmark(["--bpffs", root, "ipcache"].iter().chain(arguments).copied())
    }

    fn load(&self, file: &str) -> Result<()> {
        self.run(&["load", file, "--ipcache-entries", &ROOM.to_string()])
    }

    /// Sets, asks and forgets, one at a time; the first one makes the maps if there are none.
    fn change_single(&self, samples: &mut Samples, size: u64) -> Result<()> {
        self.run(&["set", &self.kind.single(0), "300"])?;
        // To ask takes seconds among a million, where all prefixes are read for it.
        let repeat = if size == 0 { REPEAT } else { 2 };
        for number in 1..=repeat {
            let prefix = self.kind.single(number);
            let address = prefix.replace(".0/24", ".1");
            let of = self.kind.name();
            let set = timed(|| self.run(&["set", &prefix, "300"]))?.0;
            let get = timed(|| self.run(&["get", &address]))?.0;
            let delete = timed(|| self.run(&["del", &prefix]))?.0;
            samples.add("ipcache set", of, size, "ms", set);
            samples.add("ipcache get", of, size, "ms", get);
            samples.add("ipcache del", of, size, "ms", delete);
        }
        Ok(())
    }

    fn remove(self) -> Result<()> {
        layout::remove(&self.root)
    }
}

fn write_file(kind: Kind) -> Result<String> {
    let file = format!("/run/{}", kind.name());
    let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
    let mut seen = HashSet::with_capacity(ENTRIES);
    let mut text = String::with_capacity(32 * ENTRIES);
    while seen.len() < ENTRIES {
        let prefix = prefix(kind, &mut random);
        if seen.insert(prefix) {
            writeln!(text, "{prefix} {}", 256 + random.below(60_000))?;
        }
    }
    fs::write(&file, text).with_context(|| format!("write {file}"))?;
    Ok(file)
}

/// One in four is of IPv6. Half of the prefixes have the length that most routes have.
fn prefix(kind: Kind, random: &mut Random) -> IpNet {
    let (v6, common) = (random.below(4) == 0, random.below(2) == 0);
    let address: IpAddr = match v6 {
        true => Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(random.next()) << 32).into(),
        false => Ipv4Addr::from(0x1000_0000 + random.below(0xb000_0000) as u32).into(),
    };
    let length = match (kind, v6, common) {
        (Kind::Hosts, true, _) => 128,
        (Kind::Hosts, false, _) => 32,
        (Kind::Prefixes, true, true) => 64,
        (Kind::Prefixes, true, false) => 40 + random.below(57) as u8,
        (Kind::Prefixes, false, true) => 24,
        (Kind::Prefixes, false, false) => 16 + random.below(16) as u8,
    };
    IpNet::new(address, length).expect("within the family's length").trunc()
}
