/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What policy makes of ICMP: what a link needs passes (RFC 4890), errors pass with the flow that they are
 * about, echoes and the rest are matched by type. What a link needs of IGMP is here as well.
 */
#ifndef CILMARK_ICMP_H
#define CILMARK_ICMP_H

#include "abi/config.h"
#include "abi/events.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "conntrack.h"
#include "host.h"
#include "packet.h"
#include "parse.h"
#include "route.h"

#define TYPE_BIT(type) (1ULL << ((type)&63))

/* Neighbours and routers (RFC 4861, 3122, 3971): whoever forwards lowers their hop limit of 255. */
static __always_inline int is_neighbour_message(__u8 type)
{
	const __u64 types = TYPE_BIT(133) | TYPE_BIT(134) | TYPE_BIT(135) | TYPE_BIT(136) |
			    TYPE_BIT(141) | TYPE_BIT(142) | TYPE_BIT(148) | TYPE_BIT(149);

	return type >> 6 == 2 && types & TYPE_BIT(type);
}

/* Listeners and multicast routers (RFC 2710, 3810, 4286): nobody forwards their hop limit of 1. */
static __always_inline int is_listener_message(__u8 type)
{
	const __u64 types = TYPE_BIT(130) | TYPE_BIT(131) | TYPE_BIT(132) | TYPE_BIT(143) |
			    TYPE_BIT(151) | TYPE_BIT(152) | TYPE_BIT(153);

	return type >> 6 == 2 && types & TYPE_BIT(type);
}

static __always_inline int is_for_the_link(const struct cm_address *address)
{
	return is_link_local(address) || is_multicast(address);
}

/*
 * Whether a neighbour message stays on its link. Who receives one knows by the hop limit; what a workload
 * sends to any other address must be for this host, or for a neighbour on its bridge.
 */
static __always_inline int stays_on_link(struct __sk_buff *skb, const struct packet *pkt)
{
	if (is_for_the_link(&pkt->destination) || packet_program(pkt) != CM_FROM_CONTAINER)
		return 1;
	return is_for_another(skb) ||
	       route_stays_here(route_of(skb, &pkt->destination, &pkt->source, 0));
}

/*
 * The same of IGMP as of listener messages: within the link, which a TTL of 1 does not leave. From whom is
 * no question, since IPv4 has no addresses for a link alone, and a host without one sends from 0.0.0.0.
 */
static __always_inline int igmp_keeps_link_up(struct __sk_buff *skb, const struct packet *pkt)
{
	__u32 ttl_at = pkt->l3_offset + __builtin_offsetof(struct iphdr, ttl);
	__u8 ttl;

	return is_igmp(pkt) && pkt->is_flowless && pkt->destination.bytes[0] >> 4 == 0xe &&
	       !bpf_skb_load_bytes(skb, ttl_at, &ttl, sizeof(ttl)) && ttl == 1;
}

/* Whether a message passes whatever the rules say: its link does not work without it. */
static __always_inline int icmp_keeps_link_up(struct __sk_buff *skb, const struct packet *pkt)
{
	__u32 hop_limit_at = pkt->l3_offset + __builtin_offsetof(struct ipv6hdr, hop_limit);
	__u8 hop_limit;

	/* Nobody takes a neighbour message in parts (RFC 6980). */
	if (pkt->l4_protocol != IPPROTO_ICMPV6 || pkt->fragment ||
	    bpf_skb_load_bytes(skb, hop_limit_at, &hop_limit, sizeof(hop_limit)))
		return 0;
	if (is_listener_message(pkt->icmp_type))
		return hop_limit == 1 && is_for_the_link(&pkt->destination) &&
		       (is_link_local(&pkt->source) || is_unspecified(&pkt->source));
	if (pkt->icmp_type == ICMPV6_ROUTER_ADVERTISEMENT && !is_link_local(&pkt->source))
		return 0;
	return hop_limit == 255 && is_neighbour_message(pkt->icmp_type) && stays_on_link(skb, pkt);
}

static __always_inline int icmp_is_error(const struct packet *pkt)
{
	if (pkt->l4_protocol == IPPROTO_ICMPV6)
		return pkt->icmp_type >= ICMPV6_DEST_UNREACH && pkt->icmp_type <= ICMPV6_PARAMPROB;
	return pkt->icmp_type == ICMP_DEST_UNREACH || pkt->icmp_type == ICMP_TIME_EXCEEDED ||
	       pkt->icmp_type == ICMP_PARAMETERPROB;
}

/* Whether the host neither sends nor takes a message that is no echo, whatever the rules say. */
static __always_inline int icmp_is_forbidden(const struct packet *pkt)
{
	return config.role == CM_ROLE_NETDEV && pkt->l4_protocol == IPPROTO_ICMPV6 &&
	       !icmp_is_error(pkt);
}

/* What an error quotes: too large for a second place on the stack. Not pinned. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct packet);
} cm_quoted SEC(".maps");

static __always_inline struct packet *quoted_packet(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&cm_quoted, &key);
}

/*
 * Reads the packet that an error quotes: 0, or a negative reason. What comes of it is that packet's answer,
 * with its ends exchanged: it goes where the error goes, and belongs to the same flow.
 */
static __always_inline int icmp_parse_quoted(struct __sk_buff *skb, const struct packet *pkt,
					     struct packet *answer)
{
	struct cm_address source;
	__be16 sport;

	*answer = (struct packet){
		.program = pkt->program,
		.ethertype = pkt->ethertype,
		.l3_offset = pkt->l4_offset + sizeof(struct icmphdr),
		.end = pkt->end,
		.is_quoted = 1,
	};
	if (pkt->fragment || parse_again(skb, answer) < 0 || answer->fragment == FRAGMENT_LATER)
		return -CM_DROP_INVALID_PACKET;
	source = answer->source;
	answer->source = answer->destination;
	answer->destination = source;
	sport = answer->sport;
	answer->sport = answer->dport;
	answer->dport = sport;
	if (answer->echo) {
		answer->icmp_type = answer->echo == ECHO_REQUESTED ?
					    echo_reply_of(answer->l4_protocol) :
					    echo_request_of(answer->l4_protocol);
		answer->echo ^= ECHO_REQUESTED ^ ECHO_ANSWERED;
	}
	return 0;
}

#endif
