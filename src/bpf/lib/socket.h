/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Lookups of the host's sockets, for flows that conntrack does not know. */
#ifndef CILMARK_SOCKET_H
#define CILMARK_SOCKET_H

#include "abi/config.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "conntrack.h"
#include "endpoint.h"
#include "packet.h"

/* States of TCP from the end of the handshake until the connection is closed. */
static __always_inline int is_connected(__u32 state)
{
	const __u32 connected = 1U << BPF_TCP_ESTABLISHED | 1U << BPF_TCP_FIN_WAIT1 |
				1U << BPF_TCP_FIN_WAIT2 | 1U << BPF_TCP_CLOSE_WAIT |
				1U << BPF_TCP_LAST_ACK | 1U << BPF_TCP_CLOSING;

	return state < 32 && connected >> state & 1;
}

/* The helper finds the socket that would receive: so the remote end is the source, whichever way the packet goes. */
static __always_inline __u32 socket_tuple(struct bpf_sock_tuple *wanted, const struct tuple *tuple)
{
	if (tuple->local->family == CM_IPV4) {
		wanted->ipv4.saddr = address_words(tuple->remote)[0];
		wanted->ipv4.daddr = address_words(tuple->local)[0];
		wanted->ipv4.sport = tuple->remote_port;
		wanted->ipv4.dport = tuple->local_port;
		return sizeof(wanted->ipv4);
	}
	__builtin_memcpy(wanted->ipv6.saddr, tuple->remote->bytes, sizeof(wanted->ipv6.saddr));
	__builtin_memcpy(wanted->ipv6.daddr, tuple->local->bytes, sizeof(wanted->ipv6.daddr));
	wanted->ipv6.sport = tuple->remote_port;
	wanted->ipv6.dport = tuple->local_port;
	return sizeof(wanted->ipv6);
}

enum socket_kind {
	SOCKET_NONE,
	SOCKET_BOUND, /* UDP; TCP that listens, is in its handshake or in TIME_WAIT */
	SOCKET_CONNECTED, /* TCP only */
};

/*
 * The kind of socket, in the device's namespace, that receives what a packet's remote end sends on this 5-tuple. A global
 * function, to keep the tuples off its callers' stack.
 */
__noinline int find_socket(struct __sk_buff *skb, const struct packet *pkt)
{
	struct bpf_sock_tuple wanted = {};
	struct bpf_sock *socket;
	struct tuple tuple;
	__u32 size, state;

	if (!pkt || (pkt->l4_protocol != IPPROTO_TCP && pkt->l4_protocol != IPPROTO_UDP))
		return SOCKET_NONE;
	tuple = tuple_of(pkt, packet_direction(pkt));
	size = socket_tuple(&wanted, &tuple);
	if (pkt->l4_protocol == IPPROTO_UDP) {
		socket = bpf_sk_lookup_udp(skb, &wanted, size, BPF_F_CURRENT_NETNS, 0);
		if (!socket)
			return SOCKET_NONE;
		bpf_sk_release(socket);
		return SOCKET_BOUND;
	}
	socket = bpf_skc_lookup_tcp(skb, &wanted, size, BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return SOCKET_NONE;
	state = socket->state;
	bpf_sk_release(socket);
	return is_connected(state) ? SOCKET_CONNECTED : SOCKET_BOUND;
}

/*
 * Whether a packet that this host has generated, from an address that is not its own, is the answer of a nftables
 * redirect or a transparent proxy to what was sent to that address.
 *
 * It is, if it comes from a TCP or UDP socket, or is a RST that the kernel has made by itself. It is not, if the sender
 * may have chosen the address: with raw and packet sockets anybody may, and in IPv6 with datagram sockets, too
 * (IPV6_FREEBIND, IPV6_PKTINFO). But nobody chooses another port than the socket's: so an IPv6 datagram counts as an
 * answer only if its source port is another one. In IPv4 a foreign source takes IP_TRANSPARENT.
 */
static __always_inline int answers_for_another(struct __sk_buff *skb, const struct packet *pkt)
{
	struct bpf_sock *socket = skb->sk, *full;

	if (socket && socket->family != AF_INET && socket->family != AF_INET6)
		return 0;
	/* A RST that the kernel makes has a raw socket of its own, or none. */
	if (pkt->tcp_flags & TCP_RST || !socket)
		return pkt->tcp_flags & TCP_RST;
	if (pkt->source.family == CM_IPV6 && pkt->l4_protocol != IPPROTO_TCP &&
	    socket->src_port == bpf_ntohs(pkt->sport))
		return 0;
	full = bpf_sk_fullsock(socket);
	return !full || full->type == SOCK_STREAM || full->type == SOCK_DGRAM ||
	       full->type == SOCK_SEQPACKET;
}

#endif
