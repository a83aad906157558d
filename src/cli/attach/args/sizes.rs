//! Sizes of maps.

use crate::cli::values;
use crate::model::spec::Entries;

#[derive(clap::Args)]
#[group(skip)]
pub struct Sizes {
    /// Size of the maps of flows, if this makes them: of the one for IPv4, and of that for IPv6
    #[arg(long, value_name = "N", value_parser = values::entries::<1>())]
    pub ct_entries: Option<Entries<1>>,
    /// How many entries the rules may come to
    #[arg(long, value_name = "N", value_parser = values::entries::<32>())]
    pub policy_entries: Option<Entries<32>>,
    /// Size of the ipcache's maps, if this makes them: of the one for hosts, and of that for prefixes
    #[arg(long, value_name = "N", value_parser = values::entries::<1>())]
    pub ipcache_entries: Option<Entries<1>>,
}
