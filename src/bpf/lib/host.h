/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Whether an address, and with it an end of a flow, is this host's: by lists, and by the kernel's routing tables. */
#ifndef CILMARK_HOST_H
#define CILMARK_HOST_H

#include "abi/config.h"
#include "abi/explain.h"
#include "abi/maps.h"
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "endpoint.h"
#include "explain.h"
#include "identity.h"
#include "ipcache.h"
#include "packet.h"
#include "resolve.h"
#include "route.h"

/*
 * Multicast or broadcast. 0.0.0.0 counts as broadcast: the kernel takes it for one if the source is 0.0.0.0, too, and
 * refuses it otherwise (ip_route_input_slow()).
 */
static __always_inline int is_multicast(const struct cm_address *address)
{
	const __be32 *words = address_words(address);

	if (address->family == CM_IPV6)
		return address->bytes[0] == 0xff;
	return address->bytes[0] >> 4 == 0xe || words[0] == 0xffffffff || !words[0];
}

/* Whether a MAC in the packet is that of the bridge that the device is a port of. */
static __always_inline int is_bridges(const __u8 *mac)
{
	for (int i = 0; i < ETH_ALEN; i++)
		if (mac[i] != config.bridge_mac[i])
			return 0;
	return 1;
}

/*
 * A frame to another MAC than the device's: the stack drops it, or a bridge forwards it. On a device without Ethernet
 * no frame is one; but BPF_PROG_TEST_RUN takes the first bytes of the IP header for a MAC, and sets pkt_type by it.
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
	LISTED_BY_ATTACH, /* a NIC had it when it was attached */
	LISTED_BY_OPERATOR, /* `ipcache set ADDRESS host` */
};

/*
 * Whether cm_ipcache has the address itself as the host's; prefixes do not count. A global function, to spare the stack
 * of its callers.
 */
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
 * Whether an address is listed as the host's, in this program's configuration or in the ipcache. A global function:
 * inline, the comparisons with all configured addresses would stand in a program three times.
 */
__noinline int is_listed(const struct cm_address *address)
{
	return address && (is_configured(address, config.ipv4_count + config.other_ipv4_count,
					 config.ipv6_count + config.other_ipv6_count) ||
			   is_listed_host(address));
}

/* Whether the source address of a packet that leaves is this host's. `peer` is its destination. */
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
 * Whether a received packet is for this host: its destination is listed, or the kernel would keep the packet rather than
 * forward it. The list comes first, since it costs less; it may be out of date, see has_moved_away().
 *
 * A frame to another MAC can be for this host, too: the MAC may be that of a macvlan or VLAN device on top, or of a
 * bridge that has changed its MAC or taken this device in since it was attached. But a bridge also forwards frames
 * for others, to whom the host need not have a route. So such a frame is the host's only if the address is listed and the
 * kernel would keep the packet, or if the routing tables say for certain that the address is local. On a device that
 * does not forward they say nothing, and only listed addresses count.
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
	int answer;

	step_begin();
	answer = is_for_this_host(skb, pkt);
	step_end(CM_CALL_IS_FOR_HOST, &pkt->destination, answer, 0, 0);
	return answer;
}

/*
 * Whether a received packet whose destination is listed as the host's would be forwarded by the kernel: the address was
 * here when a NIC was attached, and is elsewhere now. What the operator has listed stays the host's. Asked only before a
 * packet is dropped, because of what a route lookup costs.
 */
__noinline int has_moved_away(struct __sk_buff *skb, const struct packet *pkt)
{
	/* The lookup is about this device; a bridge or VRF above it may route by another table. */
	if (!pkt || config.host_addresses_listed || config.bridge_port || config.in_vrf ||
	    is_multicast(&pkt->destination) ||
	    (config.given_addresses && is_own_address(&pkt->destination)) ||
	    is_listed_host(&pkt->destination) == LISTED_BY_OPERATOR)
		return 0;
	return !route_stays_here(route_of_packet(skb, pkt, 0));
}

/* A broadcast or multicast frame. A device without Ethernet has none, see is_for_another(). */
static __always_inline int is_for_many(const struct __sk_buff *skb)
{
	return !config.l3_device &&
	       (skb->pkt_type == PACKET_BROADCAST || skb->pkt_type == PACKET_MULTICAST);
}

enum remote {
	REMOTE_ANOTHER,
	REMOTE_HOST,
	REMOTE_UNTOLD, /* the routing tables can't tell; the next frame of the flow may go to another MAC */
};

/*
 * Whether the remote end of a workload's flow is this host. The packet may be of either direction: one that the workload
 * sends, or the answer to it. Multicast and broadcast count as to the host, see check_for_many().
 *
 * The routing tables decide where the frame is to the device's own MAC and the device forwards. Elsewhere only an address
 * that is listed, or certainly local, is the host's: a frame to another MAC may be a bridge's to forward, and a device
 * that does not forward keeps every packet, whoever it is for. Of the latter nothing is certain (REMOTE_UNTOLD).
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
 * Whether a source address that the ipcache calls this host's really is. What the operator has listed is; an address
 * that a NIC had when it was attached may have moved elsewhere, and then the kernel has a route to it.
 */
__noinline int has_listed_source(struct __sk_buff *skb, const struct packet *pkt)
{
	if (!pkt)
		return 1;
	return is_listed_host(&pkt->source) != LISTED_BY_ATTACH ||
	       route_of(skb, &pkt->source, &pkt->destination, 0) == BPF_FIB_LKUP_RET_NOT_FWDED;
}

/*
 * Whether a received packet that this host would forward has a forged source: an address of this host. Forwarded, it
 * would look like a masqueraded one, and its answers would pass.
 *
 * A lookup that ends with NOT_FWDED means a local address, or one without any route. For IPv4 the two need not be told
 * apart, since the stack itself refuses local sources: such a packet is only kept from local delivery, which would
 * bypass that check. For IPv6 the address is local if the main table has a route to its network.
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
		pkt->verdict.is_stacks = 1;
		return 0;
	}
	/* Once more as if the host itself sent there: `ip rule … iif DEV` must not hide that the address is local. */
	if (!config.in_vrf && route_of(skb, &pkt->source, &pkt->destination,
				       BPF_FIB_LOOKUP_OUTPUT) != BPF_FIB_LKUP_RET_NOT_FWDED)
		return 0;
	/* A VRF's table holds its local addresses, too, and often ends with an unreachable route: no lookup tells more. */
	return config.in_vrf || route_of(skb, &pkt->source, &pkt->destination,
					 BPF_FIB_LOOKUP_DIRECT) != BPF_FIB_LKUP_RET_NOT_FWDED;
}

/* Whether this host has routed a frame that leaves: on a bridge's port the source MAC is the bridge's then. */
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

/* Whether a forwarded packet leaves under an address of this host (SNAT): its answer will look like one for the host. */
static __always_inline int is_masqueraded(struct __sk_buff *skb, const struct packet *pkt)
{
	return packet_program(pkt) == CM_TO_NETDEV && is_routed_frame(skb) &&
	       !is_multicast(&pkt->source) && is_host_address(skb, &pkt->source, &pkt->destination);
}

#endif
