//! Whether there are tables of nftables or of the older iptables, without their coming to be by the question.

use std::fs;
use std::io;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::kernel::netlink;

/// `NFT_MSG_GETTABLE` of `NFNL_SUBSYS_NFTABLES` (include/uapi/linux/netfilter/nf_tables.h).
const GET_TABLE: u16 = 10 << 8 | 1;
/// `struct nfgenmsg`: family (any: 0), version, resource.
const FAMILY_HEADER: usize = 4;

/// Whether this namespace has a table of nftables. The kernel is asked only where nf_tables is there already, since the
/// question itself loads it.
pub fn has_nft_tables() -> Result<bool> {
    if !has_nf_tables()? {
        return Ok(false);
    }
    let tables = netlink::request(NETLINK_NETFILTER, Message, NLM_F_DUMP, None);
    Ok(!tables.context("ask the kernel for the tables of nftables")?.is_empty())
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

/// A question for all tables, or one of them.
struct Message;

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        GET_TABLE
    }

    fn buffer_len(&self) -> usize {
        FAMILY_HEADER
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(_header: &NetlinkHeader, _payload: &[u8]) -> Result<Message, DecodeError> {
        Ok(Message)
    }
}
