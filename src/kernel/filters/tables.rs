//! Whether there are tables of nftables or of the older iptables, without their coming to be by the question.

use std::fs;
use std::io;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use netlink_packet_core::DecodeError;

use crate::kernel::netlink::Answer;
use crate::kernel::netlink::netfilter::{self, Listed};

/// Whether this namespace has a table of nftables. The kernel is asked only where nf_tables is there already, since the
/// question itself loads it.
pub fn has_nft_tables() -> Result<bool> {
    if !has_nf_tables()? {
        return Ok(false);
    }
    let mut has_one = false;
    netfilter::for_each(|answer| has_one = matches!(answer, Answer::One(Table)))
        .context("ask the kernel for the tables of nftables")?;
    Ok(has_one)
}

/// By its module, or, if it is built in, by one of its functions: the symbols of a module are there only with it.
fn has_nf_tables() -> Result<bool> {
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    if modules.lines().any(|line| line.starts_with("nf_tables ")) {
        return Ok(true);
    }
    static IS_BUILT_IN: OnceLock<bool> = OnceLock::new();
    if let Some(is_built_in) = IS_BUILT_IN.get() {
        return Ok(*is_built_in);
    }
    let symbols = fs::read_to_string("/proc/kallsyms").context("read /proc/kallsyms")?;
    Ok(*IS_BUILT_IN.get_or_init(|| symbols.contains(" nft_do_chain")))
}

/// The tables of the older iptables in this namespace: `ip_tables_names` or `ip6_tables_names`.
pub fn legacy_tables(names: &str) -> Result<Vec<String>> {
    // Not /proc/net, which is that of the process' first thread.
    let path = format!("/proc/thread-self/net/{names}");
    match fs::read_to_string(&path) {
        Ok(tables) => Ok(tables.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("read {path}")),
    }
}

/// That there is one.
struct Table;

impl Listed for Table {
    /// `NFT_MSG_GETTABLE` of `NFNL_SUBSYS_NFTABLES` (include/uapi/linux/netfilter/nf_tables.h).
    const GET: u16 = 10 << 8 | 1;

    fn read(_attributes: &[u8]) -> Result<Table, DecodeError> {
        Ok(Table)
    }
}
