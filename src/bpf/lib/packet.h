/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* One packet: what parse_packet() fills once and everybody else reads. */
#ifndef CILMARK_PACKET_H
#define CILMARK_PACKET_H

#include "abi/config.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "mark.h"

enum {
	/* How far into the packet headers may reach; a chain beyond it is invalid. */
	MAX_HEADER_BYTES = 512,
};

enum fragment {
	FRAGMENT_NONE,
	FRAGMENT_FIRST, /* has the transport header */
	FRAGMENT_LATER, /* has none */
};

enum echo {
	ECHO_NONE,
	ECHO_REQUESTED, /* who sends the packet sends requests */
	ECHO_ANSWERED, /* who sends it answers them */
};

/* What is found out and decided about a packet. */
struct verdict {
	__u32 epoch; /* of the policy, from before anything was asked: policy_epoch() */
	__u32 source_identity; /* where somebody asked for it, else 0 */
	__u32 destination_identity;
	__u32 rule; /* what decided: enum cm_rule_number, or the number of a rule */
	__u8 audited; /* the policy's verdict was a drop, and it passes */
	__u8 is_settled; /* its flow's entry decided, on the fast path */
	__u8 is_hidden; /* from this host, which others on the link share the frame with */
	__u8 is_stacks; /* not to be delivered or answered past the stack: an address may be nobody's here */
};

/* Its headers. As small as can be: two of them lie on a chain of calls, which has 512 bytes of stack. */
struct packet {
	__u8 program; /* enum cm_program */
	__u8 fragment; /* enum fragment */
	__u16 l3_offset;
	__u32 mark_in;
	struct cm_address source; /* family 0: neither IP nor ARP */
	struct cm_address destination;
	__u16 l4_offset;
	__u16 end; /* of the IP packet in the frame; what lies behind is no header of its */
	__s16 parse_error; /* 0, or the negative reason for which parsing ended early */
	__u16 arp_operation; /* 0: no ARP */
	__be16 ethertype; /* behind the VLAN tags */
	__be16 sport; /* 0 without ports; of an echo as in cm_ct4_key */
	__be16 dport;
	__be32 fragment_id; /* all fragments of a packet have the same */
	__u8 l4_protocol;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 tcp_flags;
	__u8 is_quoted; /* by an ICMP error: begins at l3_offset, and 8 bytes of its transport do */
	__u8 is_flowless; /* ICMP whose header was read, and that is no echo; IGMP as below */
	__u8 echo; /* enum echo */
	__u8 fragment_protocol; /* what the fragment header names: the only one that later ones tell */
	struct verdict verdict;
};

/* A number, once the program's own is folded into its functions. */
static __always_inline enum cm_program packet_program(const struct packet *pkt)
{
	return config.program ? config.program : pkt->program;
}

static __always_inline enum cm_direction packet_direction(const struct packet *pkt)
{
	return (1U << CM_FROM_CONTAINER | 1U << CM_TO_NETDEV) >> (packet_program(pkt) & 7) & 1;
}

_Static_assert(__builtin_offsetof(struct packet, destination) ==
		       __builtin_offsetof(struct packet, source) + sizeof(struct cm_address),
	       "an array of two");

/* The other end's address: where the endpoint sends to, or what it receives from. */
static __always_inline const struct cm_address *packet_remote(const struct packet *pkt)
{
	return &pkt->source + packet_direction(pkt);
}

static __always_inline const struct cm_address *packet_local(const struct packet *pkt)
{
	return &pkt->source + (packet_direction(pkt) ^ 1);
}

static __always_inline void packet_init(struct packet *pkt, struct __sk_buff *skb,
					enum cm_program program)
{
	*pkt = (struct packet){ .program = program, .mark_in = mark_get(skb) };
}

/* IP or ARP. */
static __always_inline int packet_has_addresses(const struct packet *pkt)
{
	return pkt->source.family != 0;
}

static __always_inline int packet_is_ip(const struct packet *pkt)
{
	return packet_has_addresses(pkt) && !pkt->arp_operation;
}

/* Neither IP nor ARP, as far as it could be read, and it could not be read to the end. */
static __always_inline int is_unread(const struct packet *pkt)
{
	return !packet_has_addresses(pkt) && pkt->parse_error &&
	       pkt->ethertype != bpf_htons(ETH_P_ARP);
}

/* Without a branch, as packet_direction(). */
static __always_inline int is_tcp(const struct packet *pkt)
{
	__u32 other = pkt->l4_protocol ^ IPPROTO_TCP;

	barrier_var(other);
	return (other - 1) >> 31;
}

/* ICMP in IPv4, or ICMPv6 in IPv6: in the other family these numbers are protocols without types. */
static __always_inline int is_icmp(const struct packet *pkt)
{
	return pkt->l4_protocol == (pkt->source.family == CM_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

/*
 * A message of IGMP between the listeners of a link and its multicast routers (RFC 1112, 2236, 3376, 4286),
 * as ICMPv6 has them for IPv6. Others, of DVMRP or traces, are packets of a protocol without ports.
 */
static __always_inline int is_igmp_of_listeners(__u8 type)
{
	const __u64 types = 1ULL << 0x11 | 1ULL << 0x12 | 1ULL << 0x16 | 1ULL << 0x17 |
			    1ULL << 0x22 | 1ULL << 0x30 | 1ULL << 0x31 | 1ULL << 0x32;

	return type < 64 && types >> type & 1;
}

static __always_inline int is_igmp(const struct packet *pkt)
{
	return pkt->source.family == CM_IPV4 && pkt->l4_protocol == IPPROTO_IGMP;
}

static __always_inline int is_udp(const struct packet *pkt, __u16 sport_host, __u16 dport_host)
{
	return pkt->l4_protocol == IPPROTO_UDP && pkt->sport == bpf_htons(sport_host) &&
	       pkt->dport == bpf_htons(dport_host);
}

/* The header at `offset`, or NULL if it does not lie whole in the linear part. */
static __always_inline void *header_at(struct __sk_buff *skb, __u32 offset, __u32 size)
{
	void *end = (void *)(long)skb->data_end;
	void *header;

	/* Also where the packet is linear: what is valid must not depend on that. */
	if (offset > MAX_HEADER_BYTES - size)
		return NULL;
	header = (void *)(long)skb->data + offset;
	return header + size <= end ? header : NULL;
}

/* Of ICMP and of ICMPv6: the types of an echo. */
static __always_inline __u8 echo_request_of(__u8 protocol)
{
	return protocol == IPPROTO_ICMP ? ICMP_ECHO : ICMPV6_ECHO_REQUEST;
}

static __always_inline __u8 echo_reply_of(__u8 protocol)
{
	return protocol == IPPROTO_ICMP ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY;
}

static __always_inline __be16 next_port(__be16 port)
{
	return bpf_htons(bpf_ntohs(port) + 1);
}

/* Gives a packet of ICMP the place in a flow that its type has. */
static __always_inline void set_echo(struct packet *pkt, __be16 identifier)
{
	if (pkt->icmp_type == echo_request_of(pkt->l4_protocol)) {
		pkt->echo = ECHO_REQUESTED;
		pkt->sport = identifier;
		pkt->dport = next_port(identifier);
	} else if (pkt->icmp_type == echo_reply_of(pkt->l4_protocol)) {
		pkt->echo = ECHO_ANSWERED;
		pkt->dport = identifier;
		pkt->sport = next_port(identifier);
	}
}

#endif
