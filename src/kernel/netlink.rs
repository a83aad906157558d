//! Asking the kernel by netlink: one request, and its answers.

pub mod netfilter;

use anyhow::{Context, Result, anyhow, bail};
use netlink_packet_core::{
    NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// The bytes of `struct nlmsghdr`.
pub const HEADER: usize = 16;

/// How often something is read that changes all the time: each takes some milliseconds at most.
const ATTEMPTS: usize = 100;

/// Makes of a message what its crate can read.
pub type Prepare = fn(&[u8]) -> Vec<u8>;

/// Asks a protocol (`NETLINK_…`) and collects its answers. Filters in the query count from Linux 4.20 on
/// (strict checking); callers look at each answer again. What has changed while it was read, so that some of it may be
/// missing or there twice (NLM_F_DUMP_INTR), is read again.
pub fn request<M>(protocol: isize, query: M, flags: u16, prepare: Option<Prepare>) -> Result<Vec<M>>
where
    M: NetlinkSerializable + NetlinkDeserializable,
{
    let mut messages = Vec::new();
    for_each(protocol, query, flags, prepare, |answer| match answer {
        Answer::Again => messages.clear(),
        Answer::One(message) => messages.push(message),
    })?;
    Ok(messages)
}

/// What comes of a question.
pub enum Answer<M> {
    /// One of the answers.
    One(M),
    /// What they list has changed meanwhile: those before do not count, and it is asked again.
    Again,
}

/// The same, one answer after the other: there may be millions.
pub fn for_each<M>(
    protocol: isize,
    query: M,
    flags: u16,
    prepare: Option<Prepare>,
    mut handle: impl FnMut(Answer<M>),
) -> Result<()>
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
    for _ in 0..ATTEMPTS {
        if ask(&socket, &bytes, prepare, |message| handle(Answer::One(message)))? {
            return Ok(());
        }
        handle(Answer::Again);
    }
    bail!("what netlink lists has changed {ATTEMPTS} times while it was read; try again")
}

/// The answers in the order in which they come; false if what they list has changed meanwhile.
fn ask<M: NetlinkDeserializable>(
    socket: &Socket,
    query: &[u8],
    prepare: Option<Prepare>,
    mut handle: impl FnMut(M),
) -> Result<bool> {
    socket.send(query, 0).context("ask netlink")?;

    let mut interrupted = false;
    loop {
        let (datagram, _) = socket.recv_from_full().context("read from netlink")?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let length = length_of(rest).context("read an answer of netlink: it is cut off")?;
            let answer = match prepare {
                Some(prepare) => NetlinkMessage::<M>::deserialize(&prepare(&rest[..length])),
                None => NetlinkMessage::<M>::deserialize(&rest[..length]),
            };
            let answer = answer.map_err(|error| anyhow!("read an answer of netlink: {error}"))?;
            interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(!interrupted),
                NetlinkPayload::Error(error) => match error.code {
                    None => return Ok(!interrupted),
                    Some(_) => return Err(error.to_io().into()),
                },
                NetlinkPayload::InnerMessage(inner) => handle(inner),
                _ => {}
            }
            // Messages are padded to four bytes, the last one perhaps not.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// The length of the first message; `None` if there are fewer bytes.
fn length_of(messages: &[u8]) -> Option<usize> {
    let length = u32::from_ne_bytes(messages.first_chunk().copied()?) as usize;
    (HEADER..=messages.len()).contains(&length).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_cut_off_has_no_length() {
        let mut whole = vec![0; HEADER + 8];
        whole[..4].copy_from_slice(&(HEADER as u32 + 8).to_ne_bytes());
        assert_eq!(length_of(&whole), Some(HEADER + 8));
        for length in 0..whole.len() {
            assert_eq!(length_of(&whole[..length]), None);
        }
    }
}
