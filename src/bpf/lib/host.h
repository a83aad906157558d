/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What a NIC's packets have to do with this host: who answers on an address, and who sends. */
#ifndef CILMARK_HOST_H
#define CILMARK_HOST_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "endpoint.h"
#include "explain.h"
#include "identity.h"
#include "ipcache.h"
#include "packet.h"
#include "resolve.h"
#include "route.h"

/* For many. To 0.0.0.0 from 0.0.0.0 is a broadcast, too, and from all else nothing (ip_route_input_slow()). */
static __always_inline int is_multicast(const struct cm_address *address)
{
	const __be32 *words = address_words(address);

	if (address->family == CM_IPV6)
		return address->bytes[0] == 0xff;
	return address->bytes[0] >> 4 == 0xe || words[0] == 0xffffffff || !words[0];
}

/* Whether a MAC, within the packet, is that of the bridge that the device is a port of. */
static __always_inline int is_bridges(const __u8 *mac)
{
	for (int i = 0; i < ETH_ALEN; i++)
		if (mac[i] != config.bridge_mac[i])
			return 0;
	return 1;
}

/*
 * A frame to another MAC: the stack drops it, or a bridge hands it on. Without Ethernet there is no
 * such thing, but a test run takes the IP header for one.
 */
static __always_inline int is_for_another(struct __sk_buff *skb)
{
	__u8 *end = (void *)(long)skb->data_end;
	__u8 *mac = (void *)(long)skb->data;

	if (config.l3_device || skb->pkt_type != PACKET_OTHERHOST)
		return 0;
	if (!config.bridge_port)
		return 1;
	if (mac + ETH_ALEN > end)
		return 0;
	return !is_bridges(mac);
}

enum listed {
	LISTED_NOT,
	LISTED_BY_ATTACH, /* of a NIC */
	LISTED_BY_OPERATOR,
};

/* Whether a line of its own calls an address the host's. A global function, for the stack of its callers. */
__noinline int is_listed_host(const struct cm_address *address)
{
	const struct cm_ipcache_entry *entry;
	struct cm_address key;

	if (!address)
		return LISTED_NOT;
	key = *address; /* on the stack, for Linux 6.1: see ipcache_lookup() */
	entry = bpf_map_lookup_elem(&cm_ipcache, &key);
	if (!entry)
		return LISTED_NOT;
	if (entry->is_host)
		return LISTED_BY_ATTACH;
	return entry->identity == IDENTITY_HOST ? LISTED_BY_OPERATOR : LISTED_NOT;
}

/*
 * Whether an address is listed as the host's: when the device was attached, or in the ipcache. A global function: inline,
 * the addresses stood in a program three times.
 */
__noinline int is_listed(const struct cm_address *address)
{
	return address && (is_configured(address, config.ipv4_count + config.other_ipv4_count,
					 config.ipv6_count + config.other_ipv6_count) ||
			   is_listed_host(address));
}

/* Whether this host has an address, by which a packet leaves. */
__noinline int is_host_address(struct __sk_buff *skb, const struct cm_address *address,
			       const struct cm_address *peer)
{
	if (!address || !peer)
		return 0;
	if (is_listed(address) || is_multicast(address))
		return 1;
	return !config.host_addresses_listed && route_stays_here(route_of(skb, address, peer, 0));
}

/*
 * Whether a packet is for this host, as the kernel would answer now. Cheapest first: addresses that are listed
 * are not asked about, see has_moved_away().
 *
 * A frame to another MAC is so, too, if its address is certainly here: the MAC may be that of a macvlan of this
 * host, of a VLAN's device, or of a bridge that has changed it or taken this device in since it was attached. Where
 * the device does not forward, the routing tables tell nothing, and a listed address counts. A host need not have
 * a route to whom it only bridges.
 */
__noinline int is_for_this_host(struct __sk_buff *skb, const struct packet *pkt)
{
	int is_known, is_another;
	long route;

	if (!pkt)
		return 0;
	is_another = is_for_another(skb);
	if (is_multicast(&pkt->destination))
		return !is_another;
	is_known = is_listed(&pkt->destination);
	if (config.host_addresses_listed || (is_known && !is_another))
		return is_known;
	route = route_of_packet(skb, pkt, 0);
	if (!is_another || is_known)
		return route_stays_here(route);
	return route_is_local(skb, &pkt->destination, &pkt->source, route);
}

/* Whether the policy of a NIC is asked about a packet that it has received. */
static __always_inline int is_for_host(struct __sk_buff *skb, const struct packet *pkt)
{
	int answer = is_for_this_host(skb, pkt);

	step(CM_CALL_IS_FOR_HOST, &pkt->destination, answer, 0, 0);
	return answer;
}

/*
 * Whether the kernel would send on a packet that counts as the host's, because its address was that when a NIC
 * was attached. What the operator has said counts. Only who is about to drop the packet needs to know.
 */
__noinline int has_moved_away(struct __sk_buff *skb, const struct packet *pkt)
{
	/* A bridge, and a VRF, may route by a table of its own. */
	if (!pkt || config.host_addresses_listed || config.bridge_port || config.in_vrf ||
	    is_multicast(&pkt->destination) ||
	    (config.given_addresses && is_own_address(&pkt->destination)) ||
	    is_listed_host(&pkt->destination) == LISTED_BY_OPERATOR)
		return 0;
	return !route_stays_here(route_of_packet(skb, pkt, 0));
}

/* A frame for all on a link, or for a group of them. Without Ethernet there is none, see is_for_another(). */
static __always_inline int is_for_many(const struct __sk_buff *skb)
{
	return !config.l3_device &&
	       (skb->pkt_type == PACKET_BROADCAST || skb->pkt_type == PACKET_MULTICAST);
}

enum remote {
	REMOTE_ANOTHER,
	REMOTE_HOST,
	REMOTE_UNTOLD, /* what goes on by another frame's MAC */
};

/*
 * Whether the other end of a workload's flow is this host, by either of its packets. What is for many is so, too,
 * see decide_for_many(). Where the device does not forward, or another MAC has no route, the routing tables tell nothing:
 * the host has what is listed, and may have what it gets by its MAC.
 */
__noinline int is_remote_host(struct __sk_buff *skb, const struct packet *pkt)
{
	int is_answer, is_ours;
	long route;

	if (!pkt)
		return REMOTE_ANOTHER;
	is_answer = packet_direction(pkt) == CM_INGRESS;
	is_ours = is_answer ? is_generated_here(skb, pkt) : !is_for_another(skb);
	if (is_multicast(packet_remote(pkt)))
		return !is_answer && is_ours;
	route = route_of_packet(skb, pkt, is_answer);
	if (is_ours && route != BPF_FIB_LKUP_RET_FWD_DISABLED)
		return route_stays_here(route);
	if (!route_stays_here(route))
		return REMOTE_ANOTHER;
	if ((is_answer && is_ours) || is_listed(packet_remote(pkt)) ||
	    route_is_local(skb, packet_remote(pkt), is_answer ? &pkt->destination : &pkt->source,
			   route))
		return REMOTE_HOST;
	return is_ours ? REMOTE_UNTOLD : REMOTE_ANOTHER;
}

/*
 * Whether a packet's source, which the ipcache calls this host's, is that. What the operator has said counts;
 * an address that a NIC had when it was attached may have moved away.
 */
__noinline int has_listed_source(struct __sk_buff *skb, const struct packet *pkt)
{
	if (!pkt)
		return 1;
	return is_listed_host(&pkt->source) != LISTED_BY_ATTACH ||
	       route_of(skb, &pkt->source, &pkt->destination, 0) == BPF_FIB_LKUP_RET_NOT_FWDED;
}

/*
 * Whether a packet that this host is going to route comes under an address of its own: sent back to who has
 * made it up, it would look masqueraded. The routing tables answer the same where they know no way back. Of
 * IPv6 the main table then has a route to the networks of the host's addresses; of IPv4 the stack refuses
 * what comes under one, and must not be left out.
 */
__noinline int has_host_source(struct __sk_buff *skb, struct packet *pkt)
{
	if (!pkt || config.accept_local || is_for_another(skb) ||
	    (pkt->source.family == CM_IPV4 && !config.local_delivery) ||
	    is_multicast(&pkt->destination) || is_link_local(&pkt->destination) ||
	    is_link_local(&pkt->source) || is_unspecified(&pkt->source))
		return 0;
	if (route_of(skb, &pkt->source, &pkt->destination, 0) != BPF_FIB_LKUP_RET_NOT_FWDED)
		return 0;
	if (pkt->source.family == CM_IPV4) {
		pkt->is_stacks = 1;
		return 0;
	}
	/* As if the host sent there: rules for what comes in by the device tell nothing of its addresses. */
	if (!config.in_vrf && route_of(skb, &pkt->source, &pkt->destination,
				       BPF_FIB_LOOKUP_OUTPUT) != BPF_FIB_LKUP_RET_NOT_FWDED)
		return 0;
	/* The table of a VRF has its own addresses, too, and ends with an unreachable route. */
	return config.in_vrf || route_of(skb, &pkt->source, &pkt->destination,
					 BPF_FIB_LOOKUP_DIRECT) != BPF_FIB_LKUP_RET_NOT_FWDED;
}

/* Not one that a bridge hands on: this host has made its header. */
static __always_inline int is_routed_frame(struct __sk_buff *skb)
{
	__u8 *end = (void *)(long)skb->data_end;
	__u8 *mac = (void *)(long)skb->data;

	if (!config.bridge_port)
		return 1;
	if (mac + 2 * ETH_ALEN > end)
		return 0;
	return is_bridges(mac + ETH_ALEN);
}

/* A workload's packet under an address of this host: the answer will look like one for the host. */
static __always_inline int is_masqueraded(struct __sk_buff *skb, const struct packet *pkt)
{
	return packet_program(pkt) == CM_TO_NETDEV && is_routed_frame(skb) &&
	       !is_multicast(&pkt->source) && is_host_address(skb, &pkt->source, &pkt->destination);
}

#endif
