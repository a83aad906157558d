//! Asking the kernel by netlink: one request, and its answers.

use anyhow::{Context, Result, anyhow};
use netlink_packet_core::{
    NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// What the kernel has answered.
pub struct Answers<M> {
    /// In the order in which they came.
    pub messages: Vec<M>,
    /// What was dumped has changed meanwhile, so that some of it may be missing, or there twice.
    pub interrupted: bool,
}

/// Asks a protocol (`NETLINK_…`) and collects its answers. Filters in the query count from Linux 4.20 on
/// (strict checking); callers look at each answer again.
pub fn request<M>(protocol: isize, query: M, flags: u16) -> Result<Answers<M>>
where
    M: NetlinkSerializable + NetlinkDeserializable,
{
    let socket = Socket::new(protocol).context("open a netlink socket")?;
    socket.connect(&SocketAddr::new(0, 0)).context("connect to netlink")?;
    // Best effort: without it the kernel only filters less.
    let _ = socket.set_netlink_get_strict_chk(true);

    let mut message =
        NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(query));
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).context("ask netlink")?;

    let mut answers = Answers { messages: Vec::new(), interrupted: false };
    loop {
        let (datagram, _) = socket.recv_from_full().context("read from netlink")?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let answer = NetlinkMessage::<M>::deserialize(rest)
                .map_err(|error| anyhow!("read an answer of netlink: {error}"))?;
            answers.interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) => match error.code {
                    None => return Ok(answers),
                    Some(_) => return Err(error.to_io().into()),
                },
                NetlinkPayload::InnerMessage(inner) => answers.messages.push(inner),
                _ => {}
            }
            // Messages are padded to four bytes, the last one perhaps not.
            let length = (answer.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
