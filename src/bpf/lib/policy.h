/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* An endpoint's rules: which of them decides about a flow. Precedence stands at cm_policy_key. */
#ifndef CILMARK_POLICY_H
#define CILMARK_POLICY_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "explain.h"
#include "metrics.h"
#include "packet.h"

/* A set of rules, compiled. */
struct cm_policy {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 14);
	__type(key, struct cm_policy_key);
	__type(value, struct cm_policy_entry);
};

/* Never written: the types of an inner map reach the object's BTF only through variables. */
struct cm_policy_key policy_key_layout;
struct cm_policy_entry policy_entry_layout;

/*
 * The endpoint's rule sets. A change builds a set of its own and puts it into its slot in one step.
 * Not pinned: user space finds it through the program.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, CM_POLICIES);
	__type(key, __u32);
	__array(values, struct cm_policy);
} cm_policies SEC(".maps");

/* What each rule has decided about, by its number; found through the program, too. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cm_metrics);
} cm_rule_stats SEC(".maps");

/* Grows with every change of rules, ipcache or endpoints: what was decided before is stale. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} cm_generation SEC(".maps");

enum {
	CB_POLICY = 2, /* of skb->cb, as in Cilium (bpf/lib/common.h) */
};

static __always_inline int has_policy(void)
{
	return config.policy[CM_INGRESS] || config.policy[CM_EGRESS];
}

/* The mask is for the verifier: a direction may come out of a map. */
static __always_inline enum cm_policy_mode policy_mode(enum cm_direction direction)
{
	return config.policy[direction & 1];
}

static __always_inline int is_enforced(enum cm_direction direction)
{
	return policy_mode(direction) == CM_POLICY_ENFORCE && fallback() != CM_FALLBACK_AUDIT;
}

/* What every cached verdict is compared with; never 0. To be read before the rules are asked. */
static __always_inline __u32 policy_epoch(void)
{
	__u32 key = 0;
	const volatile __u32 *generation = bpf_map_lookup_elem(&cm_generation, &key);

	return (generation ? *generation : 0) << 2 | !!fallback() << 1 | 1;
}

static __always_inline void count_rule(struct __sk_buff *skb, __u32 rule)
{
	struct cm_metrics *counter = bpf_map_lookup_elem(&cm_rule_stats, &rule);

	if (counter)
		metrics_add(counter, skb->len);
}

/* 0, or a negative reason; which rule said so stands in pkt->rule. */
static __always_inline int policy_lookup(struct packet *pkt, enum cm_direction direction,
					 __u32 identity, __be16 port)
{
	__u32 slot = fallback() == CM_FALLBACK_RULES ? CM_POLICY_PREVIOUS : CM_POLICY_CURRENT;
	void *rules = bpf_map_lookup_elem(&cm_policies, &slot);
	const struct cm_policy_entry *own, *any, *entry;
	struct cm_policy_key key = {
		.prefixlen = 8 * (sizeof(key) - sizeof(key.prefixlen)),
		.identity = identity,
		.direction = direction,
		.protocol = pkt->l4_protocol,
		.port = port,
	};

	pkt->rule = CM_RULE_NONE;
	if (!rules)
		return -CM_DROP_POLICY;
	own = bpf_map_lookup_elem(rules, &key);
	key.identity = 0;
	any = bpf_map_lookup_elem(rules, &key);
	entry = !own || (any && any->deny && !own->deny) ? any : own;
	if (!entry)
		return -CM_DROP_POLICY;
	pkt->rule = entry->rule;
	return entry->deny ? -CM_DROP_POLICY_DENY : 0;
}

/* Cilium's name: what a policy before this one left in the packet's control block ends here. */
static __always_inline void policy_clear_mark(struct __sk_buff *skb)
{
	skb->cb[CB_POLICY] = 0;
	step(CM_CALL_POLICY_CLEAR_MARK, NULL, 0, 0, 0);
}

#endif
