/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Flows between workloads of this host that go through the stack, where NAT may have translated them. Local delivery
 * leaves them there, in both directions: past the stack its conntrack would see only half of the connection, and answers
 * would go out untranslated. Each workload's own programs keep them, with or without a policy.
 */
#ifndef CILMARK_STACK_FLOWS_H
#define CILMARK_STACK_FLOWS_H

#include "abi/config.h"
#include "abi/explain.h"
#include "abi/maps.h"
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "conntrack.h"
#include "endpoint.h"
#include "explain.h"
#include "mark.h"
#include "packet.h"
#include "scope.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 13);
	__type(key, struct cm_stack_flow);
	__type(value, __u32);
} cm_path_flows SEC(".maps");

/* Whether this workload has ever had such a flow. Most never have, and need no map lookup. */
volatile __u64 has_stack_flows;

/* Later fragments and ICMP errors show no ports of their flow; they are found by an entry without ports. */
static __always_inline void stack_flow_key(struct cm_stack_flow *key, const struct packet *pkt)
{
	struct tuple tuple = tuple_of(pkt, packet_direction(pkt));
	int has_ports = pkt->fragment != FRAGMENT_LATER && !pkt->is_flowless;

	*key = (struct cm_stack_flow){
		.local_port = has_ports ? tuple.local_port : 0,
		.remote_port = has_ports ? tuple.remote_port : 0,
		.scope = ct_scope_low(),
		.scope_high = ct_scope_high(),
		.protocol = tuple.protocol,
	};
	key->local = *tuple.local;
	key->remote = *tuple.remote;
}

static __always_inline void stack_flow_add(const struct cm_stack_flow *key)
{
	__u32 present = 1;

	if (!bpf_map_lookup_elem(&cm_path_flows, key))
		bpf_map_update_elem(&cm_path_flows, key, &present, BPF_ANY);
}

/* Keeps a packet's flow, and beside it the entries of its later fragments and of ICMP errors about it. */
__noinline int remember_stack_flow(const struct packet *pkt)
{
	struct cm_stack_flow key;

	if (!pkt || !config.delivery || config.explain)
		return 0;
	stack_flow_key(&key, pkt);
	stack_flow_add(&key);
	key.local_port = 0;
	key.remote_port = 0;
	if (pkt->fragment == FRAGMENT_FIRST)
		stack_flow_add(&key);
	key.protocol = pkt->source.family == CM_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	stack_flow_add(&key);
	if (!has_stack_flows)
		has_stack_flows = 1;
	return 0;
}

__noinline int is_stack_flow(const struct packet *pkt)
{
	struct cm_stack_flow key;

	if (!pkt || !config.delivery)
		return 0;
	stack_flow_key(&key, pkt);
	return bpf_map_lookup_elem(&cm_path_flows, &key) != NULL;
}

/* Whether a packet from or to this workload must go through the stack. */
static __always_inline int stays_with_stack(const struct packet *pkt)
{
	if (!config.delivery || !has_stack_flows || !is_stack_flow(pkt))
		return 0;
	step(CM_CALL_STACK_FLOW, NULL, 1, 0, 0);
	if (pkt->fragment == FRAGMENT_FIRST)
		remember_stack_flow(pkt);
	return 1;
}

/* Whether a packet was stamped by a program of this host, and came on through the stack. */
static __always_inline int may_come_by_stack(const struct __sk_buff *skb)
{
	return config.delivery && mark_is_proven(skb) && !mark_is_past_stack(skb);
}

/* Whether a packet came through the stack from a workload that the answer would be delivered to directly. */
static __always_inline int comes_by_stack(const struct __sk_buff *skb, const struct packet *pkt)
{
	const struct cm_endpoint *sender;

	if (!may_come_by_stack(skb) || !packet_is_ip(pkt) || pkt->parse_error || pkt->is_flowless ||
	    !is_own_address(&pkt->destination))
		return 0;
	sender = endpoint_here(&pkt->source);
	return sender && takes_delivery(sender) && sender->endpoint_id != config.endpoint_id;
}

#endif
