/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What the kernel's own sockets tell of a flow that nobody else knows. */
#ifndef CILMARK_SOCKET_H
#define CILMARK_SOCKET_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "conntrack.h"
#include "endpoint.h"
#include "packet.h"

/* The sockets that TCP has once both ends have agreed, and until one of them has let go. */
static __always_inline int is_connected(__u32 state)
{
	const __u32 connected = 1U << BPF_TCP_ESTABLISHED | 1U << BPF_TCP_FIN_WAIT1 |
				1U << BPF_TCP_FIN_WAIT2 | 1U << BPF_TCP_CLOSE_WAIT |
				1U << BPF_TCP_LAST_ACK | 1U << BPF_TCP_CLOSING;

	return state < 32 && connected >> state & 1;
}

/* The kernel looks for who receives: the remote end stands in the source, whoever sends. */
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
	SOCKET_BOUND, /* listening, beginning or ending, or of UDP */
	SOCKET_CONNECTED, /* of TCP */
};

/*
 * Which socket of the device's namespace takes what comes from a packet's remote end, or an answer to it. A
 * global function for its stack.
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
 * Whether what this host has generated under a foreign address answers for another: a redirect has taken the question
 * away from that address (its socket has another one), or a transparent proxy has. Raw and packet sockets name any
 * source, and of IPv6 anybody may name that of a datagram (IPV6_FREEBIND, IPV6_PKTINFO), but not with another port than
 * the socket's. Of IPv4 the kernel sends from no foreign address without IP_TRANSPARENT. Without a socket it answers by
 * itself.
 */
static __always_inline int answers_for_another(struct __sk_buff *skb, const struct packet *pkt)
{
	struct bpf_sock *socket = skb->sk, *full;

	if (socket && socket->family != AF_INET && socket->family != AF_INET6)
		return 0;
	/* The kernel's own, which has a raw socket for it, or none. */
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
