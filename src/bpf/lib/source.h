/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What a workload may send as: its own addresses, and what hosts send before they have one. The
 * check knows no mode, because everything behind it believes the source address.
 */
#ifndef CILMARK_SOURCE_H
#define CILMARK_SOURCE_H

#include "abi/config.h"
#include "abi/events.h"
#include "abi/explain.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "endpoint.h"
#include "explain.h"
#include "forwarded.h"
#include "host.h"
#include "packet.h"

static __always_inline int is_icmp6(const struct packet *pkt)
{
	return pkt->source.family == CM_IPV6 && pkt->l4_protocol == IPPROTO_ICMPV6 &&
	       pkt->fragment != FRAGMENT_LATER;
}

/* The link-local address that a MAC makes (RFC 4291, appendix A). */
static __always_inline int is_made_of_mac(const struct cm_address *address, const __u8 *mac)
{
	const __be16 *words = (const __be16 *)address->bytes;

	return words[0] == bpf_htons(0xfe80) && !(words[1] | words[2] | words[3]) &&
	       words[4] == bpf_htons((mac[0] ^ 2) << 8 | mac[1]) &&
	       words[5] == bpf_htons(mac[2] << 8 | 0xff) &&
	       words[6] == bpf_htons(0xfe << 8 | mac[3]) &&
	       words[7] == bpf_htons(mac[4] << 8 | mac[5]);
}

/*
 * Whether this host has an address that is in a workload's prefix: the routing tables say so, as far as they can, or a
 * list. Where an IPv4 address beside it has a route, that there is none can't be why this one has none; `beside` is a
 * copy of it. `peer` is the other end of the packet.
 */
static __always_inline int is_hosts_in_prefix(struct __sk_buff *skb,
					      const struct cm_address *address,
					      const struct cm_address *peer,
					      struct cm_address *beside)
{
	long route = route_of(skb, address, peer, 0);

	if (!route_stays_here(route))
		return is_listed_host(address) == LISTED_BY_OPERATOR;
	if (is_listed(address))
		return 1;
	if (address->family == CM_IPV4 && route == BPF_FIB_LKUP_RET_NOT_FWDED) {
		beside->bytes[3] ^= 1;
		if (!route_stays_here(route_of(skb, beside, peer, 0)))
			return 1;
	}
	return route_is_local(skb, address, peer, route);
}

/*
 * Whether an address is the workload's by one of its prefixes: another workload has neither that address nor a longer
 * prefix around it, and this host does not have it. A global function, for its stack and because few need it.
 */
__noinline int is_own_by_prefix(struct __sk_buff *skb, const struct cm_address *address,
				const struct cm_address *peer)
{
	const struct cm_prefix_owner *longest;
	const struct cm_endpoint *endpoint;
	struct cm_address key;
	__u32 length;

	if (!address || !peer || !has_prefixes())
		return 0;
	length = own_prefix_length(address);
	/* A prefix of fewer bits than fe80::/10 is about other addresses. */
	if (!length || (is_link_local(address) && length < 10) || is_of_no_host(address) ||
	    is_multicast(address))
		return 0;
	key = *address; /* on the stack, for Linux 6.1: see ipcache_lookup() */
	endpoint = bpf_map_lookup_elem(&cm_endpoints, &key);
	if (endpoint && endpoint->role == CM_ROLE_CONTAINER)
		return endpoint->endpoint_id == config.endpoint_id;
	longest = prefix_owner(address);
	return (!longest || longest->length <= length) &&
	       !is_hosts_in_prefix(skb, address, peer, &key);
}

static __always_inline int is_own(struct __sk_buff *skb, const struct cm_address *address,
				  const struct cm_address *peer, int by_prefix)
{
	return is_own_address(address) || (by_prefix && is_own_by_prefix(skb, address, peer));
}

/*
 * The same of where a packet comes from. An answer holds as in forwarded.h: what it costs a workload would pay for
 * each packet.
 */
static __always_inline int has_source_by_prefix(struct __sk_buff *skb, struct packet *pkt)
{
	__u64 moment;

	if (is_known_forwarded(skb, pkt))
		return 1;
	moment = forwarded_moment(pkt);
	if (!is_own_by_prefix(skb, &pkt->source, &pkt->destination))
		return 0;
	remember_forwarded(skb, pkt, moment);
	return 1;
}

/*
 * Whether an address is the workload's: given, or, if no link-local one is given, made of the MAC that the
 * frame comes from.
 */
static __always_inline int is_own_source(struct __sk_buff *skb, const struct cm_address *address,
					 const struct cm_address *peer, int by_prefix)
{
	__u8 mac[ETH_ALEN];

	if (is_own(skb, address, peer, by_prefix))
		return 1;
	if (!config.link_local_by_mac || config.l3_device || address->family != CM_IPV6)
		return 0;
	return !bpf_skb_load_bytes(skb, ETH_ALEN, mac, sizeof(mac)) && is_made_of_mac(address, mac);
}

/*
 * Whether a workload may name the target of a neighbour message: what it advertises (RFC 4861, 4.4), and
 * what it asks for without an address of its own, which denies it to others (RFC 4862, 5.4).
 */
static __always_inline int may_name_target(struct __sk_buff *skb, const struct packet *pkt,
					   int by_prefix)
{
	__u32 at = pkt->l4_offset + sizeof(struct icmphdr);
	struct cm_address target;

	/* Not as a constant, which would stand beside the configuration in .rodata. */
	target.family = pkt->source.family;
	if (pkt->icmp_type != ICMPV6_NEIGHBOUR_ADVERTISEMENT &&
	    !(pkt->icmp_type == ICMPV6_NEIGHBOUR_SOLICITATION && is_unspecified(&pkt->source)))
		return 1;
	return at + sizeof(target.bytes) <= pkt->end &&
	       !bpf_skb_load_bytes(skb, at, target.bytes, sizeof(target.bytes)) &&
	       is_own_source(skb, &target, &pkt->destination, by_prefix);
}

/*
 * Whether nobody learns a neighbour from a packet. So it may come from any link-local address: a guest's
 * is not always made of its MAC (RFC 7217), and a bridge that snoops must hear which groups it is in.
 */
static __always_inline int speaks_for_nobody(const struct packet *pkt)
{
	if (!is_icmp6(pkt))
		return is_udp(pkt, 546, 547);
	return pkt->icmp_type == ICMPV6_MLD_REPORT || pkt->icmp_type == ICMPV6_MLD_DONE ||
	       pkt->icmp_type == ICMPV6_MLD2_REPORT ||
	       /* A solicitation without its only option, the sender's MAC. */
	       (pkt->icmp_type == ICMPV6_ROUTER_SOLICITATION &&
		pkt->end == pkt->l4_offset + sizeof(struct icmphdr));
}

/* Whether a packet would make the workload a router to its neighbours, or their DHCP server. */
static __always_inline int is_routers(const struct packet *pkt)
{
	return is_icmp6(pkt) &&
	       (pkt->icmp_type == ICMPV6_ROUTER_ADVERTISEMENT || pkt->icmp_type == ICMPV6_REDIRECT);
}

/*
 * What IPv4 says without an address: for a lease, and as a listener, as IPv6 does with MLD. Of which kind the
 * policy asks; nobody routes what comes from there.
 */
static __always_inline int may_send_from_nobody(const struct packet *pkt)
{
	return pkt->l4_protocol == IPPROTO_IGMP || is_udp(pkt, 68, 67);
}

/* What a workload says of itself before it has an address, or to its link only. */
static __always_inline int may_send_without_address(const struct packet *pkt)
{
	if (!is_icmp6(pkt))
		return is_udp(pkt, 546, 547) ||
		       (config.router && is_udp(pkt, 547, 546) && !is_unspecified(&pkt->source));
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
	return config.router && is_routers(pkt) && !is_unspecified(&pkt->source);
}

/* Whether a workload offers a lease that it may not: what a client of DHCP takes, from whatever port. */
static __always_inline int offers_lease(const struct packet *pkt)
{
	return !config.router && pkt->l4_protocol == IPPROTO_UDP &&
	       (pkt->dport == bpf_htons(68) || pkt->dport == bpf_htons(546));
}

/*
 * Of a workload whose addresses nobody knows: not this host's. The routing tables tell only of what this
 * host will route; an answer holds as in forwarded.h.
 */
__noinline int check_unknown_source(struct __sk_buff *skb, struct packet *pkt)
{
	__u64 moment;

	if (!pkt || has_addresses() || config.role != CM_ROLE_CONTAINER)
		return 0;
	/* Nor remembered: of a packet between the same addresses that is for this host it tells nothing. */
	if (is_for_another(skb))
		return 0;
	if (is_known_forwarded(skb, pkt))
		return 0;
	moment = forwarded_moment(pkt);
	if (has_host_source(skb, pkt))
		return -CM_DROP_INVALID_SOURCE;
	if (!pkt->verdict.is_stacks)
		remember_forwarded(skb, pkt, moment);
	return 0;
}

/* What is not plainly sent from an address of its own; with `by_prefix` an endpoint has prefixes, too. */
static __always_inline int check_known_source(struct __sk_buff *skb, struct packet *pkt,
					      int by_prefix)
{
	if (!config.router && is_routers(pkt))
		return -CM_DROP_FORBIDDEN_ICMP6;
	if (!has_addresses())
		return check_unknown_source(skb, pkt);
	if (offers_lease(pkt))
		return -CM_DROP_INVALID_SOURCE;
	if (is_icmp6(pkt) && !may_name_target(skb, pkt, by_prefix))
		return -CM_DROP_INVALID_SOURCE;
	if (is_own_address(&pkt->source) || (by_prefix && has_source_by_prefix(skb, pkt)))
		return 0;
	if (is_unspecified(&pkt->source)) {
		if (pkt->arp_operation == ARPOP_REQUEST &&
		    is_own(skb, &pkt->destination, &pkt->source, by_prefix))
			return 0;
		if (pkt->source.family == CM_IPV4 && !pkt->arp_operation &&
		    may_send_from_nobody(pkt))
			return 0;
	}
	if (pkt->source.family == CM_IPV6 && may_send_without_address(pkt) &&
	    (is_unspecified(&pkt->source) ||
	     is_own_source(skb, &pkt->source, &pkt->destination, by_prefix) ||
	     (is_link_local(&pkt->source) && speaks_for_nobody(pkt))))
		return 0;
	return -CM_DROP_INVALID_SOURCE;
}

/* A global function, because nearly no packet needs it; so the verifier walks it once. */
__noinline int check_source_thoroughly(struct __sk_buff *skb, struct packet *pkt)
{
	return pkt ? check_known_source(skb, pkt, 0) : -CM_DROP_INVALID_PACKET;
}

/* Of a workload with prefixes. Apart, so that others pay nothing for what only these need. */
__noinline int check_source_by_prefix(struct __sk_buff *skb, struct packet *pkt)
{
	if (!pkt || !has_prefixes())
		return -CM_DROP_INVALID_PACKET;
	/* The responder must not answer for the workload's own: see arp_wants_answer(). */
	if (config.arp_responder && pkt->arp_operation == ARPOP_REQUEST)
		pkt->verdict.is_stacks = is_own_by_prefix(skb, &pkt->destination, &pkt->source);
	return check_known_source(skb, pkt, 1);
}

static __always_inline int has_foreign_mac(struct __sk_buff *skb)
{
	const struct ethhdr *eth = header_at(skb, 0, sizeof(*eth));
	const volatile __be16 *mac = (const volatile __be16 *)config.source_mac;
	const __be16 *source;

	if (config.l3_device || !(mac[0] | mac[1] | mac[2]) || !eth)
		return 0;
	source = (const __be16 *)eth->h_source;
	return !!((source[0] ^ mac[0]) | (source[1] ^ mac[1]) | (source[2] ^ mac[2]));
}

/* 0, or a negative reason. */
static __always_inline int check_source(struct __sk_buff *skb, struct packet *pkt)
{
	int verdict = 0;

	if (!packet_has_addresses(pkt))
		verdict = -CM_DROP_UNKNOWN_L3;
	else if (has_foreign_mac(skb))
		verdict = -CM_DROP_INVALID_SOURCE;
	else if (has_prefixes())
		verdict = check_source_by_prefix(skb, pkt);
	else if (is_icmp6(pkt) ||
		 (has_addresses() && (!is_own_address(&pkt->source) || offers_lease(pkt))))
		verdict = check_source_thoroughly(skb, pkt);
	else if (!has_addresses() && !pkt->arp_operation)
		verdict = check_unknown_source(skb, pkt);
	step(CM_CALL_CHECK_SOURCE, &pkt->source, -verdict, 0, 0);
	return verdict;
}

#endif
