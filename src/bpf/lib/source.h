/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What a workload may send as: its own addresses, and what hosts send before they have one. The
 * check knows no mode, because everything behind it believes the source address.
 */
#ifndef CILMARK_SOURCE_H
#define CILMARK_SOURCE_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "endpoint.h"
#include "explain.h"
#include "packet.h"

static __always_inline int is_icmp6(const struct packet *pkt)
{
	return pkt->source.family == CM_IPV6 && pkt->l4_protocol == IPPROTO_ICMPV6 &&
	       pkt->fragment != FRAGMENT_LATER;
}

static __always_inline int is_udp(const struct packet *pkt, __u16 sport_host, __u16 dport_host)
{
	return pkt->l4_protocol == IPPROTO_UDP && pkt->sport == bpf_htons(sport_host) &&
	       pkt->dport == bpf_htons(dport_host);
}

/*
 * A neighbour advertisement speaks for its target (RFC 4861, 4.4). Nobody told us the workload's
 * link-local addresses, so it may advertise one only as that address itself.
 */
static __always_inline int check_advertised_target(struct __sk_buff *skb, const struct packet *pkt)
{
	struct cm_address target = { .family = CM_IPV6 };

	if (bpf_skb_load_bytes(skb, pkt->l4_offset + sizeof(struct icmphdr), target.bytes,
			       sizeof(target.bytes)))
		return -CM_DROP_INVALID_PACKET;
	if (is_own_address(&target))
		return 0;
	if (is_link_local(&target) &&
	    words_equal(address_words(&target), address_words(&pkt->source)))
		return 0;
	return -CM_DROP_INVALID_SOURCE;
}

/* From link-local addresses and from ::, which say nothing about who sends. */
static __always_inline int may_send_without_address(const struct packet *pkt)
{
	if (!is_icmp6(pkt))
		return is_udp(pkt, 546, 547);
	switch (pkt->icmp_type) {
	case ICMPV6_MLD_QUERY:
	case ICMPV6_MLD_REPORT:
	case ICMPV6_MLD_DONE:
	case ICMPV6_ROUTER_SOLICITATION:
	case ICMPV6_NEIGHBOUR_SOLICITATION:
	case ICMPV6_NEIGHBOUR_ADVERTISEMENT:
	case ICMPV6_MLD2_REPORT:
		return 1;
	}
	return 0;
}

/* A global function, because nearly no packet needs it; so the verifier walks it once. */
__noinline int check_source_thoroughly(struct __sk_buff *skb, struct packet *pkt)
{
	if (!pkt)
		return -CM_DROP_INVALID_PACKET;
	if (is_icmp6(pkt) &&
	    (pkt->icmp_type == ICMPV6_ROUTER_ADVERTISEMENT || pkt->icmp_type == ICMPV6_REDIRECT))
		return -CM_DROP_FORBIDDEN_ICMP6;
	if (!has_addresses())
		return 0;
	if (is_icmp6(pkt) && pkt->icmp_type == ICMPV6_NEIGHBOUR_ADVERTISEMENT &&
	    check_advertised_target(skb, pkt))
		return -CM_DROP_INVALID_SOURCE;
	if (is_own_address(&pkt->source))
		return 0;
	if (is_unspecified(&pkt->source)) {
		if (pkt->arp_operation == ARPOP_REQUEST)
			return 0;
		if (pkt->source.family == CM_IPV4 && !pkt->arp_operation && is_udp(pkt, 68, 67))
			return 0;
	}
	if (pkt->source.family == CM_IPV6 &&
	    (is_unspecified(&pkt->source) || is_link_local(&pkt->source)) &&
	    may_send_without_address(pkt))
		return 0;
	return -CM_DROP_INVALID_SOURCE;
}

/* 0, or a negative reason. */
static __always_inline int check_source(struct __sk_buff *skb, struct packet *pkt)
{
	int verdict = 0;

	if (!packet_has_addresses(pkt))
		verdict = -CM_DROP_UNKNOWN_L3;
	else if (is_icmp6(pkt) || (has_addresses() && !is_own_address(&pkt->source)))
		verdict = check_source_thoroughly(skb, pkt);
	step(CM_CALL_CHECK_SOURCE, &pkt->source, -verdict, 0, 0);
	return verdict;
}

#endif
