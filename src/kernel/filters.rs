//! The rules of nftables and iptables in the current network namespace, as their own tools list them. Reading loads no
//! module and makes no table: a tool is run only where tables are.

mod tables;

use std::collections::{BTreeSet, HashMap};
use std::fs;

use anyhow::{Context, Error, Result, bail};

use crate::kernel::tool::{self, Tools};
use crate::model::mark::Mark;
use crate::model::marks::iptables;
use crate::model::marks::nft::{self, Foreign, Listing, Named};
use crate::model::marks::ruleset::{Chain, Hook, Ruleset};

/// Where iproute2 and nft look for names of marks.
const MARK_NAMES: [&str; 2] = ["/etc/iproute2/rt_marks", "/usr/share/iproute2/rt_marks"];

/// What was read, and what not.
#[derive(Debug, Default)]
pub struct Filters {
    /// The rules.
    pub ruleset: Ruleset,
    /// What of it is missing.
    pub unread: Vec<Unread>,
}

/// Rules that are there, and that nobody could read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Whose rules.
    pub what: String,
    /// Why not.
    pub why: String,
    /// What helps.
    pub cure: String,
}

/// A listing of iptables.
struct Tables {
    /// How its rules are shown.
    tool: &'static str,
    /// What lists them, if it is installed.
    save: &'static str,
    /// What lists them where it is the tool of that kind.
    usual: &'static str,
    /// Of nftables, or of the older kind.
    is_nft: bool,
    package: &'static str,
}

const OF_NFT: [(&str, Tables); 3] = [
    (
        "ip",
        Tables {
            tool: "iptables",
            save: "iptables-nft-save",
            usual: "iptables-save",
            is_nft: true,
            package: "iptables",
        },
    ),
    (
        "ip6",
        Tables {
            tool: "ip6tables",
            save: "ip6tables-nft-save",
            usual: "ip6tables-save",
            is_nft: true,
            package: "iptables",
        },
    ),
    (
        "bridge",
        Tables {
            tool: "ebtables",
            save: "ebtables-nft-save",
            usual: "ebtables-save",
            is_nft: true,
            package: "iptables",
        },
    ),
];

const LEGACY: [(&str, Tables); 2] = [
    (
        "ip_tables_names",
        Tables {
            tool: "iptables-legacy",
            save: "iptables-legacy-save",
            usual: "iptables-save",
            is_nft: false,
            package: "iptables",
        },
    ),
    (
        "ip6_tables_names",
        Tables {
            tool: "ip6tables-legacy",
            save: "ip6tables-legacy-save",
            usual: "ip6tables-save",
            is_nft: false,
            package: "iptables",
        },
    ),
];

/// All that there is, as these tools list it.
pub fn read(tools: &Tools) -> Filters {
    let mut filters = Reading::default();
    match tables::has_nft_tables() {
        Ok(false) => {}
        Ok(true) => filters.read_nft(tools),
        Err(error) => filters.closed("nftables", &error),
    }
    for (names, tables) in &LEGACY {
        let what = format!("the rules of {}", tables.tool);
        match tables::legacy_tables(names) {
            Ok(there) if there.is_empty() => {}
            Ok(_) => match tables.list(tools) {
                Ok(chains) => filters.chains.extend(chains),
                Err(error) => filters.unread(&what, &error, &tables.cure()),
            },
            Err(error) => filters.closed(tables.tool, &error),
        }
    }
    filters.end()
}

/// What has been read so far.
#[derive(Default)]
struct Reading {
    chains: Vec<Chain>,
    unread: Vec<Unread>,
    /// Whose tables can't even be asked for, and the first reason.
    closed: Vec<String>,
    why: String,
}

impl Reading {
    fn end(mut self) -> Filters {
        if !self.closed.is_empty() {
            let (what, why) = (format!("the rules of {}", self.closed.join(", ")), self.why);
            self.unread.push(Unread { what, why, cure: "run it as root".to_owned() });
        }
        Filters { ruleset: Ruleset::new(self.chains), unread: self.unread }
    }

    fn closed(&mut self, whose: &str, error: &anyhow::Error) {
        if self.closed.is_empty() {
            self.why = format!("{error:#}");
        }
        self.closed.push(whose.to_owned());
    }

    fn unread(&mut self, what: &str, error: &anyhow::Error, cure: &str) {
        let (what, why, cure) = (what.to_owned(), format!("{error:#}"), cure.to_owned());
        self.unread.push(Unread { what, why, cure });
    }

    fn read_nft(&mut self, tools: &Tools) {
        let listing = match list_nft(tools) {
            Ok(listing) => listing,
            Err(error) => {
                let cure = "install nft there (package nftables), or look at it by hand: `nft list ruleset`";
                return self.unread("the rules of nftables", &error, cure);
            }
        };
        let (listing, unlisted) = listing;
        for (set, error) in unlisted {
            let what = format!("the elements of {} {} of {}", set.kind, set.name, set.table);
            self.unread(&what, &error, "look at them by hand: `nft list ruleset` shows them");
        }
        let foreign = listing.of_iptables();
        let mut chains = listing.chains(&foreign);
        chains.iter_mut().for_each(|chain| find_devices(tools, chain));
        self.chains.extend(chains);
        for (family, tables) in &OF_NFT {
            let names: BTreeSet<&str> = foreign
                .iter()
                .filter(|it| it.family == *family)
                .map(|it| it.table.as_str())
                .collect();
            if names.is_empty() {
                continue;
            }
            match tables.list_these(tools, &names) {
                Ok(chains) => self.chains.extend(chains),
                Err(error) => {
                    let what = format!("the rules of {}", tables.tool);
                    self.unread(&what, &error, &tables.cure());
                    // Without what only iptables can show.
                    let of_family = |it: &&Foreign| it.family != *family;
                    let others = foreign.iter().filter(of_family).cloned().collect();
                    let shown = listing.chains(&others).into_iter();
                    self.chains.extend(shown.filter(|it| {
                        it.table.family == *family && names.contains(it.table.name.as_str())
                    }));
                }
            }
        }
    }
}

/// The JSON of nft 1.0.6 leaves out on which devices a chain is; its text has them. It takes its arguments for commands
/// as they stand, and the kernel any bytes for names: what is no plain name may be one of a command, and its devices stay
/// unknown.
fn find_devices(tools: &Tools, chain: &mut Chain) {
    if matches!(chain.hook, Some(Hook::Ingress | Hook::Egress)) && chain.devices.is_empty() {
        let (family, table) = (&chain.table.family, &chain.table.name);
        if ![table, &chain.name].into_iter().all(|name| is_plain(name)) {
            return;
        }
        let shown = tools.output("nft", &["--terse", "list", "chain", family, table, &chain.name]);
        chain.devices = shown.ok().flatten().map(|it| nft::devices(&it)).unwrap_or_default();
    }
}

/// Whether a name can be nothing else to nft, nor an option.
fn is_plain(name: &str) -> bool {
    let is_of_words = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    name.starts_with(is_of_words) && name.chars().all(|it| is_of_words(it) || "./-".contains(it))
}

/// The rules, with the elements only of those sets that are about marks: others may have millions. And the sets whose
/// elements can't be listed, with why not.
fn list_nft(tools: &Tools) -> Result<(Listing, Vec<(Named, Error)>)> {
    let is_missing = || tool::is_missing("nft");
    let run = |arguments: &[&str]| tools.output("nft", arguments)?.with_context(is_missing);
    let listing = Listing::parse(&run(&["--json", "--terse", "list", "ruleset"])?)?;
    let mut listing = listing.with_names(mark_names());
    let mut unlisted = Vec::new();
    for set in listing.unknown_sets() {
        let mut add = || {
            let shown = tools.output_for("nft", &["--json", "--file", "-"], &set.question())?;
            listing.add(&shown.with_context(is_missing)?)
        };
        if let Err(error) = add() {
            unlisted.push((set, error));
        }
    }
    Ok((listing, unlisted))
}

/// The names of marks, of which nft prints the first that there is.
fn mark_names() -> HashMap<String, u32> {
    let text = MARK_NAMES.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let name = |line: &str| {
        let mut words = line.split_whitespace();
        let mark: Mark = words.next()?.parse().ok()?;
        Some((words.next()?.to_owned(), mark.0))
    };
    text.lines().filter_map(name).collect()
}

impl Tables {
    fn list(&self, tools: &Tools) -> Result<Vec<Chain>> {
        let saved = match tools.output(self.save, &[])? {
            Some(saved) => saved,
            None => self.list_by_the_usual(tools)?,
        };
        iptables::parse(self.tool, &saved)
    }

    /// Distributions with only one kind of iptables call it by its plain name.
    fn list_by_the_usual(&self, tools: &Tools) -> Result<String> {
        let missing = || tool::is_missing(self.save);
        let version = tools.output(self.usual, &["--version"])?.with_context(missing)?;
        if version.contains("nf_tables") != self.is_nft {
            bail!("{}, and {} is of the other kind", missing(), self.usual);
        }
        tools.output(self.usual, &[])?.with_context(missing)
    }

    fn list_these(&self, tools: &Tools, names: &BTreeSet<&str>) -> Result<Vec<Chain>> {
        let mut chains = self.list(tools)?;
        chains.retain(|it| names.contains(it.table.name.as_str()));
        if let Some(name) =
            names.iter().find(|name| !chains.iter().any(|it| it.table.name == **name))
        {
            bail!(
                "{} leaves out the table {name}, which others than iptables have changed",
                self.save
            );
        }
        Ok(chains)
    }

    fn cure(&self) -> String {
        format!(
            "install it there (package {}), or look at it by hand: `{}`",
            self.package, self.save
        )
    }
}
