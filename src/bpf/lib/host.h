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

static __always_inline int is_multicast(const struct cm_address *address)
{
	const __be32 *words = address_words(address);

	if (address->family == CM_IPV6)
		return address->bytes[0] == 0xff;
	return address->bytes[0] >> 4 == 0xe || words[0] == 0xffffffff;
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
	for (int i = 0; i < ETH_ALEN; i++)
		if (mac[i] != config.bridge_mac[i])
			return 1;
	return 0;
}

/* BPF_FIB_LKUP_RET_*. The other end is asked for by rules such as `ip rule add from`. */
static __always_inline long route_of(struct __sk_buff *skb, const struct cm_address *address,
				     const struct cm_address *peer, __u32 flags)
{
	struct bpf_fib_lookup fib = {
		.family = address->family == CM_IPV4 ? AF_INET : AF_INET6,
		.ifindex = skb->ifindex,
	};

	long result;

	__builtin_memcpy(fib.source, peer->bytes, sizeof(fib.source));
	__builtin_memcpy(fib.destination, address->bytes, sizeof(fib.destination));
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), flags);
	step(CM_CALL_FIB_LOOKUP, address, result, 0, 0);
	return result;
}

/*
 * Whether the routing tables keep an address here: neither we nor the operator list link-local,
 * temporary, secondary and broadcast addresses, those of other devices, and what DHCP changed.
 */
static __always_inline int is_routed_here(struct __sk_buff *skb, const struct cm_address *address,
					  const struct cm_address *peer)
{
	switch (route_of(skb, address, peer, 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_UNSUPP_LWT:
	case BPF_FIB_LKUP_RET_NO_NEIGH:
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
	case BPF_FIB_LKUP_RET_NO_SRC_ADDR:
		return 0;
	}
	return 1;
}

/* Whether a line of its own calls an address the host's. */
static __always_inline int is_listed_host(const struct cm_address *address)
{
	struct cm_address key = *address; /* on the stack, for Linux 6.1: see ipcache_lookup() */
	const struct cm_ipcache_entry *entry = bpf_map_lookup_elem(&cm_ipcache, &key);

	return entry && (entry->is_host || entry->identity == IDENTITY_HOST);
}

/*
 * Cheapest first. A global function, for its stack: kernels round each frame up to 32 bytes, and
 * 512 have to do for a chain of calls.
 */
__noinline int is_host_address(struct __sk_buff *skb, const struct cm_address *address,
			       const struct cm_address *peer)
{
	if (!address || !peer)
		return 0;
	if (is_own_address(address) || is_multicast(address) || is_listed_host(address))
		return 1;
	/* A host need not have a route to whom it only bridges. */
	return !is_for_another(skb) && is_routed_here(skb, address, peer);
}

/* Whether the policy of a NIC is asked about a packet that it has received. */
static __always_inline int is_for_host(struct __sk_buff *skb, const struct packet *pkt)
{
	/* A VLAN's device may have a MAC of its own: of it we know the addresses that are listed. */
	int is_tagged = skb->vlan_present || pkt->l3_offset > ETH_HLEN;
	int is_seen_only = !config.bridge_port && !is_tagged && is_for_another(skb);
	int answer = !is_seen_only && is_host_address(skb, &pkt->destination, &pkt->source);

	step(CM_CALL_IS_FOR_HOST, &pkt->destination, answer, 0, 0);
	return answer;
}

/*
 * Whether a packet's source, which the ipcache calls this host's, is that. What the operator has said counts;
 * an address that a NIC had when it was attached may have moved away.
 */
__noinline int has_listed_source(struct __sk_buff *skb, const struct packet *pkt)
{
	const struct cm_ipcache_entry *entry;
	struct cm_address key;

	if (!pkt)
		return 1;
	key = pkt->source; /* on the stack, for Linux 6.1: see ipcache_lookup() */
	entry = bpf_map_lookup_elem(&cm_ipcache, &key);
	return !entry || !entry->is_host ||
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

/* A workload's packet under an address of this host: the answer will look like one for the host. */
static __always_inline int is_masqueraded(struct __sk_buff *skb, const struct packet *pkt)
{
	return packet_program(pkt) == CM_TO_NETDEV && !config.bridge_port &&
	       !is_multicast(&pkt->source) && is_host_address(skb, &pkt->source, &pkt->destination);
}

#endif
