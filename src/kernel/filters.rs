//! The rules of nftables and iptables in the current network namespace, as their own tools list them. Reading loads no
//! module and makes no table: a tool is run only where tables are.

mod tables;

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

use crate::kernel::tool;
use crate::model::marks::iptables;
use crate::model::marks::nft::{Foreign, Listing};
use crate::model::marks::ruleset::{Chain, Ruleset};

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

const OF_NFT: [(&str, Tables); 2] = [
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

/// All that there is.
pub fn read() -> Filters {
    let mut filters = Filters::default();
    match tables::has_nft_tables() {
        Ok(false) => {}
        Ok(true) => filters.read_nft(),
        Err(error) => filters.unread("the rules of nftables", &error, "run it as root"),
    }
    for (names, tables) in &LEGACY {
        let what = format!("the rules of {}", tables.tool);
        match tables::legacy_tables(names) {
            Ok(there) if there.is_empty() => {}
            Ok(_) => match tables.list() {
                Ok(chains) => filters.ruleset.chains.extend(chains),
                Err(error) => filters.unread(&what, &error, &tables.cure()),
            },
            Err(error) => filters.unread(&what, &error, "run it as root"),
        }
    }
    filters
}

impl Filters {
    fn unread(&mut self, what: &str, error: &anyhow::Error, cure: &str) {
        let (what, why, cure) = (what.to_owned(), format!("{error:#}"), cure.to_owned());
        self.unread.push(Unread { what, why, cure });
    }

    fn read_nft(&mut self) {
        let listing = match list_nft() {
            Ok(listing) => listing,
            Err(error) => {
                let cure =
                    "install nft (package nftables), or look at it by hand: `nft list ruleset`";
                return self.unread("the rules of nftables", &error, cure);
            }
        };
        let foreign = listing.of_iptables();
        self.ruleset.chains.extend(listing.chains(&foreign));
        for (family, tables) in &OF_NFT {
            let names: BTreeSet<&str> = foreign
                .iter()
                .filter(|it| it.family == *family)
                .map(|it| it.table.as_str())
                .collect();
            if names.is_empty() {
                continue;
            }
            match tables.list_these(&names) {
                Ok(chains) => self.ruleset.chains.extend(chains),
                Err(error) => {
                    let what = format!("the rules of {}", tables.tool);
                    self.unread(&what, &error, &tables.cure());
                    // Without what only iptables can show.
                    let of_family = |it: &&Foreign| it.family != *family;
                    let others = foreign.iter().filter(of_family).cloned().collect();
                    let shown = listing.chains(&others).into_iter();
                    self.ruleset.chains.extend(shown.filter(|it| {
                        it.table.family == *family && names.contains(it.table.name.as_str())
                    }));
                }
            }
        }
    }
}

/// The rules, with the elements only of those sets that are about marks: others may have millions.
fn list_nft() -> Result<Listing> {
    let run = |arguments: &[&str]| tool::output("nft", arguments)?.context("nft is not installed");
    let mut listing = Listing::parse(&run(&["--json", "--terse", "list", "ruleset"])?)?;
    for set in listing.unknown_sets() {
        let (family, table) = (&set.table.family, &set.table.name);
        listing.add(&run(&["--json", "list", set.kind, family, table, &set.name])?)?;
    }
    Ok(listing)
}

impl Tables {
    fn list(&self) -> Result<Vec<Chain>> {
        let saved = match tool::output(self.save, &[])? {
            Some(saved) => saved,
            None => self.list_by_the_usual()?,
        };
        iptables::parse(self.tool, &saved)
    }

    /// Distributions with only one kind of iptables call it by its plain name.
    fn list_by_the_usual(&self) -> Result<String> {
        let missing = || format!("{} is not installed", self.save);
        let version = tool::output(self.usual, &["--version"])?.with_context(missing)?;
        if version.contains("nf_tables") != self.is_nft {
            bail!("{}, and {} is of the other kind", missing(), self.usual);
        }
        tool::output(self.usual, &[])?.with_context(missing)
    }

    fn list_these(&self, names: &BTreeSet<&str>) -> Result<Vec<Chain>> {
        let mut chains = self.list()?;
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
        format!("install the package {}, or look at it by hand: `{}`", self.package, self.save)
    }
}
