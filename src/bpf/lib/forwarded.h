/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What a NIC receives and sends for others. It has no entry in conntrack, and the routing tables say
 * that it is no business of the host's policy: to ask them costs 200 ns, so that an answer holds for
 * its program and pair of addresses, on its CPU, until the next jiffy. For its program, since they ask
 * different questions: whether the destination is the host's, and whether the source is. A workload whose
 * addresses nobody knows, or are those of a prefix, is asked the latter, too. Of the former it holds for all that a route may depend on.
 */
#ifndef CILMARK_FORWARDED_H
#define CILMARK_FORWARDED_H

#include "abi/config.h"
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "endpoint.h"
#include "generations.h"
#include "host.h"
#include "packet.h"
#include "policy_map.h"
#include "resolve.h"
#include "route.h"

enum {
	FORWARDED_SLOT_BITS = 9,
};

struct forwarded {
	struct cm_address source;
	struct cm_address destination;
	__u32 mark;
	__u64 moment;
	__be32 class; /* TOS or traffic class: route_class() */
	__be16 sport;
	__be16 dport;
	__u8 protocol;
	__u8 is_for_another; /* by its MAC */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << FORWARDED_SLOT_BITS);
	__type(key, __u32);
	__type(value, struct forwarded);
} cm_forwarded SEC(".maps");

/*
 * What an answer holds for: a jiffy, and of a NIC's packets the epoch of what the ipcache and the endpoints say of either
 * end: of both the routing tables are asked, and whether a line calls it the host's. Counters only grow, and so their sum
 * tells of each. What else the answer follows from is the configuration, with which the map goes, and the routing tables,
 * of which nobody tells: hence the jiffy.
 */
static __always_inline __u64 moment_of(const struct packet *pkt)
{
	__u32 epoch =
		config.role == CM_ROLE_NETDEV ?
			pkt->verdict.epoch + (generation_of(packet_local(pkt)) << epoch_shift()) :
			0;

	return (__u64)epoch << 32 | (__u32)bpf_jiffies64();
}

/* The same now. A global function, for its stack. */
__noinline __u64 forwarded_moment(const struct packet *pkt)
{
	return pkt ? moment_of(pkt) : 0;
}

static __always_inline int is_about_destination(const struct packet *pkt)
{
	return packet_program(pkt) == CM_FROM_NETDEV;
}

/* Each of an endpoint's two programs has a half of the slots. */
static __always_inline struct forwarded *forwarded_slot(const struct packet *pkt)
{
	/* Odd factors from the golden ratio, so that neighbours don't share a slot. */
	__u32 ends = xor_of_words(&pkt->source) * 0x9e3779b1 ^ xor_of_words(&pkt->destination);
	__u32 ports = is_about_destination(pkt) ? (__u32)pkt->sport << 16 | pkt->dport : 0;
	__u32 hash = (ends ^ ports * 0xc2b2ae35) * 0x85ebca6b;
	__u32 slot = hash >> (33 - FORWARDED_SLOT_BITS);

	slot |= (__u32)packet_direction(pkt) << (FORWARDED_SLOT_BITS - 1);

	return bpf_map_lookup_elem(&cm_forwarded, &slot);
}

/* Where there is a map for it: `cm_config::remembers_forwarded` of user space. */
static __always_inline int remembers_forwarded(void)
{
	return config.role == CM_ROLE_NETDEV ? has_policy() : !has_addresses() || has_prefixes();
}

/* A packet of which the answer depends on nothing but its addresses. */
static __always_inline int is_plainly_forwarded(const struct __sk_buff *skb,
						const struct packet *pkt)
{
	if (skb->vlan_present ||
	    (skb->pkt_type != PACKET_HOST && skb->pkt_type != PACKET_OTHERHOST &&
	     config.role == CM_ROLE_NETDEV))
		return 0;
	if (packet_program(pkt) == CM_TO_NETDEV)
		return !is_from_stack(skb, pkt);
	return config.l3_device || pkt->l3_offset == ETH_HLEN;
}

/* What else the routing tables were asked by, of a destination. */
static __always_inline int is_routed_as(struct __sk_buff *skb, const struct packet *pkt,
					const struct forwarded *known)
{
	return known->sport == pkt->sport && known->dport == pkt->dport &&
	       known->protocol == pkt->l4_protocol && known->mark == mark_get(skb) &&
	       known->class == route_class(skb, pkt) &&
	       known->is_for_another == is_for_another(skb);
}

/*
 * Whether the answer for a packet without an entry is known. A global function: inline it was 400
 * instructions more for the verifier in each program of a NIC, to spare such packets 8 ns.
 */
__noinline int is_known_forwarded(struct __sk_buff *skb, const struct packet *pkt)
{
	const struct forwarded *known;

	if (!pkt || !remembers_forwarded() || !is_plainly_forwarded(skb, pkt))
		return 0;
	known = forwarded_slot(pkt);
	return known && known->moment == moment_of(pkt) &&
	       known->source.family == pkt->source.family &&
	       words_equal(address_words(&known->source), address_words(&pkt->source)) &&
	       words_equal(address_words(&known->destination), address_words(&pkt->destination)) &&
	       (!is_about_destination(pkt) || is_routed_as(skb, pkt, known));
}

/* Of a packet that the host's policy has no say in; `moment` is from before it was asked. */
__noinline int remember_forwarded(struct __sk_buff *skb, const struct packet *pkt, __u64 moment)
{
	struct forwarded *slot;

	if (!pkt || !remembers_forwarded() || !is_plainly_forwarded(skb, pkt))
		return 0;
	slot = forwarded_slot(pkt);
	if (!slot)
		return 0;
	slot->source = pkt->source;
	slot->destination = pkt->destination;
	slot->moment = moment;
	slot->sport = pkt->sport;
	slot->dport = pkt->dport;
	slot->protocol = pkt->l4_protocol;
	slot->mark = mark_get(skb);
	slot->class = route_class(skb, pkt);
	slot->is_for_another = is_for_another(skb);
	return 0;
}

#endif
