//! Asking nfnetlink for all that it has of a kind (include/uapi/linux/netfilter/nfnetlink.h).

use anyhow::Result;
use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::Answer;

/// `struct nfgenmsg`: family (any: 0), version, resource.
const FAMILY_HEADER: usize = 4;

/// Something that nfnetlink lists.
pub trait Listed: Sized {
    /// The message that asks for it, with its subsystem.
    const GET: u16;

    /// What one answer says.
    ///
    /// # Errors
    /// The attributes are cut short.
    fn read(attributes: &[u8]) -> Result<Self, DecodeError>;
}

/// All of the calling thread's network namespace, one after the other.
pub fn for_each<L: Listed>(mut handle: impl FnMut(Answer<L>)) -> Result<()> {
    super::for_each(NETLINK_NETFILTER, Message::Get, NLM_F_DUMP, None, |answer| match answer {
        Answer::Again => handle(Answer::Again),
        Answer::One(Message::Listed(listed)) => handle(Answer::One(listed)),
        Answer::One(Message::Get) => {}
    })
}

/// What is sent and received.
enum Message<L> {
    Get,
    Listed(L),
}

impl<L: Listed> NetlinkSerializable for Message<L> {
    fn message_type(&self) -> u16 {
        L::GET
    }

    fn buffer_len(&self) -> usize {
        FAMILY_HEADER
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

impl<L: Listed> NetlinkDeserializable for Message<L> {
    type Error = DecodeError;

    fn deserialize(_header: &NetlinkHeader, payload: &[u8]) -> Result<Message<L>, DecodeError> {
        let attributes = payload.get(FAMILY_HEADER..).unwrap_or_default();
        Ok(Message::Listed(L::read(attributes)?))
    }
}
