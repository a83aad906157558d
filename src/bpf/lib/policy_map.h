/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* An endpoint's rules: which of them decides about a flow. Precedence stands at cm_policy_key. */
#ifndef CILMARK_POLICY_MAP_H
#define CILMARK_POLICY_MAP_H

#include "abi/config.h"
#include "abi/events.h"
#include "abi/explain.h"
#include "abi/maps.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "explain.h"
#include "generations.h"
#include "policy_ctx.h"
#include "metrics.h"
#include "nic.h"
#include "packet.h"

/* A set of rules, compiled. A hash table, because a trie gets slower with every rule. */
struct cm_policy {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* of each set as many as it has */
	__type(key, struct cm_policy_key);
	__type(value, struct cm_policy_entry);
};

/* Never written: the types of an inner map reach the object's BTF only through variables. */
struct cm_policy_key policy_key_layout;
struct cm_policy_entry policy_entry_layout;
struct cm_port_blocks policy_spans_layout;

/*
 * The rule sets of an endpoint, but for a NIC with a policy. A change builds a set of its own and puts it
 * into its place in one step. Not pinned: user space finds it through the program.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, CM_POLICIES);
	__type(key, __u32);
	__array(values, struct cm_policy);
} cm_policy_sets SEC(".maps");

/* Those of all NICs with a policy, which ask each other's. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, CM_NIC_POLICIES);
	__type(key, __u32);
	__array(values, struct cm_policy);
} cm_nic_policies SEC(".maps");

/* What each rule has decided about, by its number; found through the program, too. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cm_metrics);
} cm_rule_stats SEC(".maps");

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

static __always_inline int is_enforced(const struct policy_ctx *ctx, enum cm_direction direction)
{
	return policy_mode(direction) == CM_POLICY_ENFORCE && ctx->fallback != CM_FALLBACK_AUDIT;
}

/* The same of the NIC that is asked. */
static __always_inline int nic_enforces(const struct policy_ctx *ctx, enum cm_direction direction)
{
	return nic_mode(ctx->nic, direction) == CM_POLICY_ENFORCE &&
	       ctx->fallback != CM_FALLBACK_AUDIT;
}

enum {
	FALLBACKS_BITS = 5, /* for CM_NICS of them */
};

_Static_assert(CM_NICS < 1 << FALLBACKS_BITS, "a count of all NICs");

/* How many bits of an epoch are not the generation. src/state/conntrack.rs does the same. */
static __always_inline __u32 epoch_shift(void)
{
	return 1 + (config.role == CM_ROLE_NETDEV ? FALLBACKS_BITS : 1);
}

/* While a policy's rules are being changed each packet asks them: no verdict has this epoch. */
#define NO_EPOCH (~1U)

/*
 * What the cached verdict on a flow is compared with; never 0. To be read before the rules are asked. The remote end
 * is that of the flow that is asked about, which need not be the packet's: see quotes_flow(). That of NICs is that of
 * all, which share flows: it also grows with each that falls back.
 */
static __always_inline __u32 policy_epoch(const struct cm_address *remote)
{
	/* First: behind a clock that is stopped it grows, and so goes with no fallback of before. */
	__u32 counter, generation = generation_and_policy(remote, &counter);
	__u32 fallbacks = config.role == CM_ROLE_NETDEV ? nics_fallen_back() : !!fallback();

	return counter & 1 ? NO_EPOCH : generation << epoch_shift() | fallbacks << 1 | 1;
}

/* The same for another remote end. */
static __always_inline __u32 epoch_with(__u32 epoch, const struct cm_address *remote)
{
	if (epoch == NO_EPOCH)
		return epoch;
	return generation_of(remote) << epoch_shift() | (epoch & ((1 << epoch_shift()) - 1));
}

static __always_inline void count_rule(struct __sk_buff *skb, __u32 rule)
{
	struct cm_metrics *counter = bpf_map_lookup_elem(&cm_rule_stats, &rule);

	if (counter)
		metrics_add(counter, skb->len);
}

enum {
	SEARCH_FLAG_BITS = 4, /* enum cm_policy_flags */
};

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ &&
		       sizeof(struct cm_policy_key) ==
			       __builtin_offsetof(struct cm_policy_key, port) + sizeof(__u32),
	       "a service as the last word of a key");

static __always_inline __u32 rule_of_span(void *rules, __u32 identity, __u32 service,
					  enum cm_port_block block)
{
	struct cm_policy_key key = { .identity = identity, .block = block };
	const struct cm_policy_entry *entry;
	__u32 covered = service & -block;

	__builtin_memcpy(&key.port, &covered, sizeof(covered));
	entry = bpf_map_lookup_elem(rules, &key);
	return entry ? entry->rule << SEARCH_FLAG_BITS | entry->flags : 0;
}

enum {
	WIDER_BLOCKS = CM_PORT_BLOCK_16 | CM_PORT_BLOCK_256 | CM_PORT_BLOCK_4096 |
		       CM_PORT_BLOCK_PROTOCOL | CM_PORT_BLOCK_ALL,
	WIDER_BLOCKS_COUNT = 5,
};

/* The rule of the smallest of some blocks that has one. */
static __always_inline __u32 rule_of_blocks(void *rules, __u32 identity, __u32 service,
					    __u32 blocks)
{
	__u32 found = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < WIDER_BLOCKS_COUNT; i++) {
		if (!blocks)
			break;
		found = rule_of_span(rules, identity, service, blocks & -blocks);
		if (found)
			break;
		blocks &= blocks - 1;
	}
	barrier_var(found);
	return found;
}

/* Asks for entries that are not for one port, the smallest block first. */
static __always_inline void ask_wider_rules(void *rules, struct policy_ctx *ctx, __u32 identity,
					    __u32 service)
{
	struct cm_policy_key key = { .identity = service >> 24, .direction = CM_PORT_BLOCKS };
	const struct cm_port_blocks *there = bpf_map_lookup_elem(rules, &key);

	if (!there)
		return;
	ctx->tells_host |= !!there->tells_host;
	if (!ctx->own)
		ctx->own = rule_of_blocks(rules, identity, service, there->of_peers & WIDER_BLOCKS);
	barrier();
	if (!ctx->any)
		ctx->any = rule_of_blocks(rules, 0, service, there->of_any & WIDER_BLOCKS);
	barrier();
}

/* Nearly all rules are for one port: those are asked first. */
static __always_inline void ask_rules(void *rules, struct policy_ctx *ctx, __u32 identity,
				      __u32 service)
{
	ctx->any = 0;
	ctx->own = rule_of_span(rules, identity, service, CM_PORT_BLOCK_PORT);
	barrier();
	if (ctx->own & CM_POLICY_FINAL)
		return;
	ctx->any = rule_of_span(rules, 0, service, CM_PORT_BLOCK_PORT);
	barrier();
	if (ctx->own ? !ctx->any : !(ctx->any & CM_POLICY_FINAL))
		ask_wider_rules(rules, ctx, identity, service);
}

/*
 * The rules in force of the NIC that is asked, or of a workload. Two calls, since only one of the maps is there; see
 * STAYS_A_CALL_OF_ITS_OWN.
 */
static __always_inline void *rules_in_force(const struct policy_ctx *ctx)
{
	__u32 set = ctx->fallback == CM_FALLBACK_RULES ? CM_POLICY_PREVIOUS : CM_POLICY_CURRENT;
	void *rules;

	if (config.role == CM_ROLE_NETDEV) {
		set += ctx->nic % CM_NICS * CM_POLICIES;
		rules = bpf_map_lookup_elem(&cm_nic_policies, &set);
		asm volatile("" ::"i"(CM_ROLE_NETDEV));
	} else {
		rules = bpf_map_lookup_elem(&cm_policy_sets, &set);
		asm volatile("" ::"i"(CM_ROLE_CONTAINER));
	}
	return rules;
}

/*
 * The rule that decides, with its flags, or 0. `service` is direction << 24 | protocol << 16 | port or
 * ICMP type in host byte order.
 */
static __always_inline __u32 policy_lookup(struct policy_ctx *ctx, __u32 identity, __u32 service)
{
	void *rules = rules_in_force(ctx);

	if (!rules)
		return 0;
	ask_rules(rules, ctx, identity, service);
	barrier();
	if (!ctx->any)
		return ctx->own;
	/* Whose identity is not known finds entries for any as its own, of the blocks that peers have. */
	if (!ctx->own || !identity ||
	    (ctx->any & CM_POLICY_DENIES && !(ctx->own & CM_POLICY_DENIES)))
		return ctx->any;
	return ctx->own;
}

/* 0, or a negative reason; which rule said so stands in pkt->verdict.rule. */
static __always_inline int ask_policy(struct packet *pkt, struct policy_ctx *ctx,
				      enum cm_direction direction, __u32 identity, __be16 port)
{
	__u32 service = direction << 24 | pkt->l4_protocol << 16 | bpf_ntohs(port);
	__u32 found = policy_lookup(ctx, identity, service);

	pkt->verdict.rule = found >> SEARCH_FLAG_BITS;
	if (!found)
		return -CM_DROP_POLICY;
	return found & CM_POLICY_DENIES ? -CM_DROP_POLICY_DENY : 0;
}

/* Cilium's name: what a policy before this one left in the packet's control block ends here. */
static __always_inline void policy_clear_mark(struct __sk_buff *skb)
{
	skb->cb[CB_POLICY] = 0;
	step(CM_CALL_POLICY_CLEAR_MARK, NULL, 0, 0, 0);
}

#endif
