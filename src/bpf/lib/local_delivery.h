/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * From workload to workload of one host past its stack: the sender's program tail-calls to_container
 * of the destination, and that redirects into the workload. Whatever needs an answer of a router, or
 * more than one receiver, is left to the stack.
 */
#ifndef CILMARK_LOCAL_DELIVERY_H
#define CILMARK_LOCAL_DELIVERY_H

#include "abi/config.h"
#include "abi/events.h"
#include "abi/explain.h"
#include "abi/maps.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "drop.h"
#include "endpoint.h"
#include "explain.h"
#include "icmp.h"
#include "mark.h"
#include "metrics.h"
#include "packet.h"
#include "stack_flows.h"
#include "trace.h"

/* Cilium's name: each endpoint's to_container(), by the endpoint's number. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1 << 16);
	__type(key, __u32);
	__type(value, __u32);
} cm_policy_call SEC(".maps");

/* The sign of a call, in skb->cb: nowhere else can a program leave a word for the one that it calls. */
enum {
	CB_DELIVERY = 4,
	DELIVERED = 0x63696c6d, /* cilm */
};

/*
 * The workload's MAC in the first six bytes: config.source_mac from the beginning, else 0 until the workload
 * has sent something. In one word, so that whoever reads it gets no half of another.
 */
volatile __u64 workload_mac;

/* From a packet that has passed the source check. */
static __always_inline void learn_mac(struct __sk_buff *skb)
{
	struct ethhdr *eth = header_at(skb, 0, sizeof(*eth));
	__u64 mac = 0;

	if (!config.delivery || config.explain || !eth || eth->h_source[0] & 1)
		return;
	__builtin_memcpy(&mac, eth->h_source, ETH_ALEN);
	if (mac != workload_mac)
		workload_mac = mac;
}

/* A frame to one receiver, which the host would route or bridge. */
static __always_inline int is_to_one(const struct __sk_buff *skb)
{
	if (skb->pkt_type == PACKET_OTHERHOST)
		return config.role == CM_ROLE_CONTAINER || config.bridge_port;
	return skb->pkt_type == PACKET_HOST;
}

/* Never routed: it counts on the hop limit that it was sent with (RFC 4861, 6.1 and 7.1). */
static __always_inline int is_neighbour_discovery(const struct packet *pkt)
{
	return pkt->l4_protocol == IPPROTO_ICMPV6 &&
	       (is_neighbour_message(pkt->icmp_type) || pkt->icmp_type == ICMPV6_REDIRECT);
}

/* Whether nothing but a router's plain work is left to do. */
static __always_inline int is_simply_routed(struct __sk_buff *skb, const struct packet *pkt)
{
	struct iphdr *ip = header_at(skb, ETH_HLEN, sizeof(*ip));
	struct ipv6hdr *ip6 = (void *)ip;

	/* A device that has moved to another namespace has other neighbours than it knows of. */
	if (skb->ifindex != config.ifindex || !is_to_one(skb))
		return 0;
	if (!packet_is_ip(pkt) || pkt->parse_error || pkt->verdict.is_stacks ||
	    is_neighbour_discovery(pkt))
		return 0;
	/* A VLAN is a network of its own. */
	if (pkt->l3_offset != ETH_HLEN || skb->vlan_present || !ip)
		return 0;
	return (pkt->source.family == CM_IPV4 ? ip->ttl : ip6->hop_limit) > 1;
}

/*
 * Whether the answer to a packet comes past the stack, too: to an address in a prefix, or to one that is
 * shared, it does not, and half a connection is none to the stack's conntrack.
 */
static __always_inline int is_answered_past_stack(const struct packet *pkt)
{
	if (config.role != CM_ROLE_CONTAINER ||
	    !(has_prefixes() || config.shared_ipv4 || config.shared_ipv6))
		return 1;
	return is_own_address(&pkt->source) && !is_shared(&pkt->source);
}

/* The workload, of this network namespace, that takes a packet past the stack; or NULL. */
static __always_inline const struct cm_endpoint *local_destination(struct __sk_buff *skb,
								   const struct packet *pkt)
{
	const struct cm_endpoint *endpoint;

	if (!is_answered_past_stack(pkt) || !is_simply_routed(skb, pkt))
		return NULL;
	endpoint = bpf_map_lookup_elem(&cm_endpoints, &pkt->destination);
	if (!endpoint || !takes_delivery(endpoint) || endpoint->role != CM_ROLE_CONTAINER ||
	    endpoint->netns != config.netns || endpoint->endpoint_id == config.endpoint_id)
		return NULL;
	return endpoint;
}

/* The destination's device or program has gone; what accept() has counted was not forwarded. */
__noinline int drop_missed(struct __sk_buff *skb, const struct packet *pkt)
{
	if (!pkt)
		return TC_ACT_UNSPEC;
	uncount_packet(skb, pkt);
	mark_put_back(skb, pkt->mark_in);
	return drop(skb, pkt, -CM_DROP_MISSED_TAIL_CALL);
}

/* The way out of a packet that passes: into a workload of this host, or to the stack. */
static __always_inline int deliver(struct __sk_buff *skb, struct packet *pkt)
{
	const struct cm_endpoint *destination;
	__u32 length = 0;
	long error;

	accept(skb, pkt);
	destination = config.local_delivery ? local_destination(skb, pkt) : NULL;
	if (!destination || stays_with_stack(pkt))
		return TC_ACT_UNSPEC;
	error = bpf_check_mtu(skb, destination->ifindex, &length, 0, 0);
	if (error > 0) {
		mark_set_past_stack(skb);
		return TC_ACT_UNSPEC;
	}
	skb->cb[CB_DELIVERY] = DELIVERED;
	if (error == 0)
		bpf_tail_call(skb, &cm_policy_call, destination->endpoint_id);
	return drop_missed(skb, pkt);
}

/*
 * Whether another program has tail-called this one, whose sign then has served. On its own hook a packet
 * is on its own device, but that may have another number in another namespace; and the stack leaves
 * in skb->cb what it likes. So it takes both.
 */
static __always_inline int is_delivered(struct __sk_buff *skb)
{
	if (!config.delivery || skb->ifindex == config.ifindex || skb->cb[CB_DELIVERY] != DELIVERED)
		return 0;
	skb->cb[CB_DELIVERY] = 0;
	step(CM_CALL_TO_CONTAINER, NULL, config.endpoint_id, workload_mac, 0);
	return 1;
}

/*
 * Whether a packet that was called with goes by the stack all the same: the stack asks for a MAC that is not
 * known, and has the rest of the flow from then on.
 */
static __always_inline int is_left_to_stack(const struct packet *pkt)
{
	if (workload_mac)
		return stays_with_stack(pkt);
	if (!pkt->is_flowless)
		remember_stack_flow(pkt);
	return 1;
}

static __always_inline long decrement_ttl(struct __sk_buff *skb, const struct packet *pkt)
{
	__u32 ttl4_at = pkt->l3_offset + __builtin_offsetof(struct iphdr, ttl);
	__u32 check_at = pkt->l3_offset + __builtin_offsetof(struct iphdr, check);
	__u32 ttl6_at = pkt->l3_offset + __builtin_offsetof(struct ipv6hdr, hop_limit);
	__be16 before, after; /* TTL and protocol */
	__u8 hop_limit;

	if (pkt->source.family == CM_IPV6) {
		if (bpf_skb_load_bytes(skb, ttl6_at, &hop_limit, sizeof(hop_limit)))
			return -1;
		hop_limit--;
		return bpf_skb_store_bytes(skb, ttl6_at, &hop_limit, sizeof(hop_limit),
					   BPF_F_RECOMPUTE_CSUM);
	}
	if (bpf_skb_load_bytes(skb, ttl4_at, &before, sizeof(before)))
		return -1;
	after = before - bpf_htons(0x0100);
	if (bpf_l3_csum_replace(skb, check_at, before, after, sizeof(after)))
		return -1;
	return bpf_skb_store_bytes(skb, ttl4_at, &after, sizeof(after), 0);
}

/*
 * Makes it a packet from this host to the workload: 0, or a negative reason. A global function for
 * its stack: the kernel adds up 512 bytes at most along the calls of a program, and policy takes most.
 */
__noinline int route_to_workload(struct __sk_buff *skb, const struct packet *pkt)
{
	__u8 macs[2 * ETH_ALEN];
	__u64 mac = workload_mac;

	if (!pkt)
		return -CM_DROP_INVALID_PACKET;
	__builtin_memcpy(macs, &mac, ETH_ALEN);
#pragma clang loop unroll(full)
	for (int i = 0; i < ETH_ALEN; i++)
		macs[ETH_ALEN + i] = config.mac[i];
	if (decrement_ttl(skb, pkt) || bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return -CM_DROP_WRITE_ERROR;
	/* What was bridged to the workload is for others until it gets there. */
	if (skb->pkt_type != PACKET_HOST && bpf_skb_change_type(skb, PACKET_HOST))
		return -CM_DROP_WRITE_ERROR;
	return 0;
}

/* The last step of a delivery; a tap's own hook counts and reports. */
static __always_inline int enter_workload(struct __sk_buff *skb, struct packet *pkt)
{
	if (config.delivery == CM_DELIVERY_EGRESS) {
		mark_set_past_stack(skb);
		return bpf_redirect(config.ifindex, 0);
	}
	accept(skb, pkt);
	return bpf_redirect_peer(config.ifindex, 0);
}

#endif
