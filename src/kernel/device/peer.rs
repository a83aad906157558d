//! The other end of a veth, asked for from the namespace of a workload.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Result, bail};
use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};

use super::Device;
use crate::kernel::rtnetlink::request;

/// Where the other end of a veth is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// In the namespace that was asked about, with this index.
    There(u32),
    /// In the same one as the veth itself.
    Beside,
    /// In a third one.
    Elsewhere,
}

/// Looks for the other end of a veth of this namespace in another one. An index alone says nothing: each namespace
/// counts its own.
pub fn peer(veth: &Device, there: &File) -> Result<Peer> {
    Ok(match (veth.parent, veth.parent_netns) {
        (Some(ifindex), Some(nsid)) if number_of(there)? == Some(nsid) => Peer::There(ifindex),
        (_, Some(_)) => Peer::Elsewhere,
        (_, None) => Peer::Beside,
    })
}

/// The number by which this namespace knows another one; `None` if it knows none.
fn number_of(namespace: &File) -> Result<Option<i32>> {
    let mut query = NsidMessage::default();
    query.attributes.push(NsidAttribute::Fd(namespace.as_raw_fd() as u32));
    for message in request(RouteNetlinkMessage::GetNsId(query), NLM_F_ACK)? {
        if let RouteNetlinkMessage::NewNsId(answer) = message {
            return Ok(answer.attributes.iter().find_map(|attribute| match attribute {
                NsidAttribute::Id(id) if *id >= 0 => Some(*id),
                _ => None,
            }));
        }
    }
    bail!("the kernel gave no answer")
}
