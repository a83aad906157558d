//! Who the endpoint is, and whose.

use crate::model::labels::Labels;
use crate::model::owner::Owner;
use crate::model::spec::IdentityRef;

#[derive(clap::Args)]
#[group(skip)]
pub struct Who {
    /// The identity, a number or a name; for a NIC 1 (host) if left out
    #[arg(long, value_name = "ID")]
    pub id: Option<IdentityRef>,
    /// Labels, such as app=web,tier=front: without --id they make its identity, in the cluster that this host is in
    #[arg(long, value_name = "KEY=VALUE")]
    pub labels: Option<Labels>,
    /// Whose it is, such as the number of a container: `status` shows it, and `detach --owner` finds it
    #[arg(long, value_name = "TEXT")]
    pub owner: Option<Owner>,
}
