/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What policy makes of ICMP: messages without which a network breaks pass (RFC 4890; path MTU),
 * errors pass with the flow that they are about, echoes and the rest are matched by type.
 */
#ifndef CILMARK_ICMP_H
#define CILMARK_ICMP_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "conntrack.h"
#include "packet.h"

static __always_inline int is_icmp(const struct packet *pkt)
{
	return (pkt->l4_protocol == IPPROTO_ICMP || pkt->l4_protocol == IPPROTO_ICMPV6) &&
	       pkt->fragment != FRAGMENT_LATER;
}

#define TYPE_BIT(type) (1ULL << ((type)&63))

/* Neighbour discovery, multicast listeners, router messages. */
static __always_inline int icmp6_keeps_network_up(__u8 type)
{
	const __u64 types_128_191 = TYPE_BIT(130) | TYPE_BIT(131) | TYPE_BIT(132) | TYPE_BIT(133) |
				    TYPE_BIT(134) | TYPE_BIT(135) | TYPE_BIT(136) | TYPE_BIT(141) |
				    TYPE_BIT(142) | TYPE_BIT(143) | TYPE_BIT(148) | TYPE_BIT(149) |
				    TYPE_BIT(151) | TYPE_BIT(152) | TYPE_BIT(153);

	return type == ICMPV6_PKT_TOOBIG || (type >> 6 == 2 && types_128_191 & TYPE_BIT(type));
}

static __always_inline int icmp_is_error(const struct packet *pkt)
{
	if (pkt->l4_protocol == IPPROTO_ICMPV6)
		return pkt->icmp_type >= ICMPV6_DEST_UNREACH && pkt->icmp_type <= ICMPV6_PARAMPROB;
	return pkt->icmp_type == ICMP_DEST_UNREACH || pkt->icmp_type == ICMP_TIME_EXCEEDED ||
	       pkt->icmp_type == ICMP_PARAMETERPROB;
}

/* Whether a message passes whatever the rules say. */
static __always_inline int icmp_always_passes(const struct packet *pkt)
{
	if (pkt->l4_protocol == IPPROTO_ICMP)
		return pkt->icmp_type == ICMP_DEST_UNREACH && pkt->icmp_code == ICMP_FRAG_NEEDED;
	return icmp6_keeps_network_up(pkt->icmp_type) ||
	       (config.role == CM_ROLE_NETDEV && icmp_is_error(pkt));
}

/* Whether the host neither sends nor takes a message that is no echo, whatever the rules say. */
static __always_inline int icmp_is_forbidden(const struct packet *pkt)
{
	return config.role == CM_ROLE_NETDEV && pkt->l4_protocol == IPPROTO_ICMPV6 &&
	       !icmp_always_passes(pkt);
}

/*
 * Reads the packet that an error quotes: 0, or a negative reason. It went the other way, which
 * packet_direction() does not know.
 */
static __always_inline int icmp_parse_quoted(struct __sk_buff *skb, const struct packet *pkt,
					     struct packet *quoted)
{
	*quoted = (struct packet){
		.ethertype = pkt->ethertype,
		.l3_offset = pkt->l4_offset + sizeof(struct icmphdr),
		.is_quoted = 1,
	};
	return parse_again(skb, quoted);
}

/* The entry of the flow that an error is about, if it was sent to who sent the quoted packet. */
static __always_inline struct cm_ct_entry *icmp_related_entry(struct __sk_buff *skb,
							      struct packet *pkt)
{
	struct packet quoted;
	struct tuple tuple;

	if (icmp_parse_quoted(skb, pkt, &quoted) < 0 || quoted.fragment == FRAGMENT_LATER ||
	    !words_equal(address_words(&quoted.source), address_words(&pkt->destination)))
		return NULL;
	tuple = tuple_of(&quoted, !packet_direction(pkt));
	return ct_lookup(&tuple);
}

#endif
