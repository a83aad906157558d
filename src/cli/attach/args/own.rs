//! What the endpoint owns.

use ipnet::IpNet;

use crate::cli::values::parse_ip;

#[derive(clap::Args)]
#[group(skip)]
pub struct Own {
    /// The workload's addresses and prefixes (fd00::/64), which it then can't change; a NIC's own addresses if left
    /// out. Of 172.17.0.2/16 the address counts
    #[arg(long, value_name = "ADDR", value_delimiter = ',', num_args = 1.., value_parser = parse_ip)]
    pub ip: Vec<IpNet>,
    /// More of them, which other workloads of the same identity may have, too: an address that moves from one to
    /// another
    #[arg(long, value_name = "ADDR", value_delimiter = ',', num_args = 1.., value_parser = parse_ip)]
    pub shared_ip: Vec<IpNet>,
}

/// What is named counts in the place of what there was.
pub fn over(named: &[IpNet], before: Vec<IpNet>) -> Vec<IpNet> {
    if named.is_empty() { before } else { named.to_vec() }
}
