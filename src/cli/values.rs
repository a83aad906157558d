//! How arguments are read: of those that are one of a few values with what help says of each.

use std::str::FromStr;

use anyhow::{Error, Result, anyhow};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::value_parser;
use ipnet::IpNet;

use crate::model::endpoint::Role;
use crate::model::enforcement::{Mode, VerdictLog};
use crate::model::flow::Progress;
use crate::model::policy::live::Kind;
use crate::model::prefix::parse_own;
use crate::model::rule::Direction;
use crate::model::spec::{CtScope, Entries, HookChoice, HostAddresses, MAX_ENTRIES};

/// Reads what a model reads, and offers its values.
macro_rules! parser {
    ($function:ident, $type:ident: $($value:ident => $help:literal),+ $(,)?) => {
        pub fn $function() -> impl TypedValueParser<Value = $type> {
            // Whoever adds a value has to say here what it is.
            let help = |value: $type| match value {
                $($type::$value => $help),+
            };
            of($type::ALL.iter().map(move |value| (value.name(), help(*value))))
        }
    };
}

parser!(
    role, Role:
    Container => "The host side of a workload's veth or tap",
    Netdev => "A NIC of the host",
);
parser!(
    mode, Mode:
    Off => "No rule is asked",
    Audit => "Rules are asked, what they would drop is reported, and everything passes",
    Enforce => "What no rule allows is dropped",
);
parser!(
    verdict_log, VerdictLog:
    None => "Of none; drops, and what audit would drop, are reported all the same",
    Ingress => "To the endpoint",
    Egress => "From the endpoint",
    Both => "Of both",
);
parser!(
    progress, Progress:
    Syn => "TCP: no more than a SYN was seen",
    Established => "Both ends may send; protocols other than TCP are so from the start",
    HalfClosed => "TCP: one end has sent FIN",
    Closing => "TCP: both have, or the endpoint itself has sent RST",
    Reset => "TCP: the other end has sent RST, or somebody in its name",
);
parser!(
    verdict, Kind:
    Deny => "A rule denies it",
    NoRule => "No rule allows it",
    Unknown => "It can't be told",
    Allow => "A rule allows it, or it passes whatever rules say",
);
parser!(
    direction, Direction:
    Ingress => "To the endpoint",
    Egress => "From the endpoint",
);
parser!(hook, HookChoice: Auto => "", Tcx => "", Clsact => "");
parser!(host_addresses, HostAddresses: Routed => "", Listed => "");
parser!(ct_scope, CtScope: Global => "", Local => "");

/// How many entries a map may have.
pub fn entries<const LEAST: u32>() -> impl TypedValueParser<Value = Entries<LEAST>> {
    let within = value_parser!(u32).range(i64::from(LEAST)..=i64::from(MAX_ENTRIES));
    within.try_map(|entries| Entries::new(entries).ok_or("out of range"))
}

/// Reads what an endpoint is to own. The error explains the usual mistake: DEV behind `--ip`, which takes all words that
/// follow it.
pub fn parse_ip(text: &str) -> Result<IpNet> {
    parse_own(text).map_err(|error| anyhow!("{error}; DEV goes before --ip"))
}

fn of<T>(
    values: impl Iterator<Item = (&'static str, &'static str)>,
) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = Error> + Clone + Send + Sync + 'static,
{
    let value = |(name, help): (&'static str, &'static str)| match help {
        "" => PossibleValue::new(name),
        help => PossibleValue::new(name).help(help),
    };
    PossibleValuesParser::new(values.map(value)).try_map(|name| name.parse::<T>())
}
