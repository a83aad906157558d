/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Flows: one entry for both directions of each, under (local end, remote end), which knows who
 * began, how far it has come, and the policy's verdict.
 */
#ifndef CILMARK_CONNTRACK_H
#define CILMARK_CONNTRACK_H

#include "abi/config.h"
#include "abi/events.h"
#include "abi/maps.h"
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "endpoint.h"
#include "flow_table.h"
#include "policy_ctx.h"
#include "packet.h"
#include "policy_map.h"
#include "scope.h"

/* A flow as one of its packets shows it, or as an ICMP error quotes it. */
struct tuple {
	const struct cm_address *local;
	const struct cm_address *remote;
	__be16 local_port;
	__be16 remote_port;
	__u8 protocol;
};

/* Sums instead of branches: the verifier would walk all that follows once for each direction. */
static __always_inline struct tuple tuple_of(const struct packet *pkt, enum cm_direction direction)
{
	__u32 sent = direction & CM_EGRESS;

	return (struct tuple){
		.local = &pkt->source + (sent ^ 1),
		.remote = &pkt->source + sent,
		.local_port = pkt->sport * sent + pkt->dport * (sent ^ 1),
		.remote_port = pkt->dport * sent + pkt->sport * (sent ^ 1),
		.protocol = pkt->l4_protocol,
	};
}

/* The last word of a key of either family, as cm_ct4_key and cm_ct6_key have it. */
static __always_inline __u64 key_ports(const struct tuple *tuple)
{
	return tuple->local_port | (__u32)tuple->remote_port << 16 | (__u64)ct_scope_low() << 32 |
	       (__u64)ct_scope_high() << 48 | (__u64)tuple->protocol << 56;
}

static __always_inline __u64 key_word(const struct cm_address *address, int word)
{
	const __be32 *words = address_words(address);

	return words[2 * word] | (__u64)words[2 * word + 1] << 32;
}

/* Word by word: of fields in a union clang makes copies of bytes. */
static __always_inline void ct4_key(union flow_key *key, const struct tuple *tuple)
{
	key->words[0] = address_words(tuple->local)[0] | (__u64)address_words(tuple->remote)[0]
								 << 32;
	key->words[1] = key_ports(tuple);
}

static __always_inline void ct6_key(union flow_key *key, const struct tuple *tuple)
{
	key->words[0] = key_word(tuple->local, 0);
	key->words[1] = key_word(tuple->local, 1);
	key->words[2] = key_word(tuple->remote, 0);
	key->words[3] = key_word(tuple->remote, 1);
	key->words[4] = key_ports(tuple);
}

/* What stands behind a key of IPv4 counts for nothing. No 0: to the verifier that would be a state of its own. */
static __always_inline void ct4_fill(union flow_key *key)
{
	key->words[2] = key->words[1];
	key->words[3] = key->words[1];
	key->words[4] = key->words[1];
}

/* The same for code that serves both families; whether it is of IPv6. */
static __always_inline int ct_key(union flow_key *key, const struct tuple *tuple)
{
	int is_v6 = tuple->local->family == CM_IPV6;

	if (is_v6) {
		ct6_key(key, tuple);
	} else {
		ct4_key(key, tuple);
		ct4_fill(key);
	}
	barrier_var(is_v6);
	return is_v6;
}

enum {
	FLOW_TRIES = 4, /* in two buckets, and again where another CPU writes at the same time */
};

/* In the verdict of a flow: the policy of a workload, or of a NIC. */
static __always_inline __u32 own_slot(void)
{
	return 1U << config.nic_slot % CM_NICS;
}

static __always_inline __u64 ct_verdict_of(__u32 epoch, __u32 passed, __u32 denied)
{
	return (__u64)(epoch == NO_EPOCH ? 0 : epoch) << 32 | passed << 16 | denied;
}

/* The same verdict where nobody has but these slots. */
static __always_inline __u64 ct_within(__u64 verdict, __u32 slots)
{
	return verdict & (~0xffffffffULL | slots << 16 | slots);
}

/* Of a flow that has passed here. */
static __always_inline __u64 ct_verdict(__u32 epoch, int allowed)
{
	return ct_verdict_of(epoch, own_slot(), allowed ? 0 : own_slot());
}

static __always_inline __u32 ct_epoch(__u64 verdict)
{
	return verdict >> 32;
}

/* Which slots a flow has passed on its originator's way. */
static __always_inline __u32 ct_passed(__u64 verdict)
{
	return (__u32)verdict >> 16;
}

/* Those of them whose rules deny it. */
static __always_inline __u32 ct_denied(__u64 verdict)
{
	return verdict & 0xffff;
}

/*
 * Whether a verdict allows its flow, still counts, and is this policy's, too: on its originator's way a flow has passed here.
 * An answer may go by another NIC.
 */
static __always_inline int ct_is_allowed(__u64 verdict, __u32 epoch, __u32 backward)
{
	__u64 here = config.role == CM_ROLE_NETDEV ?
			     (__u64)own_slot() << 16 & ((__u64)(backward & 1) - 1) :
			     0;

	return (verdict & (~0xffff0000ULL | here)) == ((__u64)epoch << 32 | here);
}

enum {
	RULE_MASK = (1 << CM_FLOW_NIC_SHIFT) - 1,
	SECOND_RULE_MASK = (1 << CM_FLOW_SECOND_SHIFT) - 1,
};

/* The rule of a slot that decided about a flow. Another NIC's number says nothing there. */
static __always_inline __u32 ct_rule_of(const struct cm_flow *flow, __u32 slot)
{
	if (flow->rule >> CM_FLOW_NIC_SHIFT == slot)
		return flow->rule & RULE_MASK;
	if (flow->second_rule && flow->second_rule >> CM_FLOW_SECOND_SHIFT == slot)
		return flow->second_rule & SECOND_RULE_MASK;
	return CM_RULE_ANOTHER_NIC;
}

static __always_inline __u32 ct_rule(const struct cm_flow *flow)
{
	return config.role == CM_ROLE_NETDEV ? ct_rule_of(flow, config.nic_slot) :
					       flow->rule & RULE_MASK;
}

/* Lets a flow remember the rule of the NIC of a slot, as far as there is room beside those of `others`. */
static __always_inline void ct_keep_rule(struct cm_flow *flow, __u32 slot, __u32 rule, __u32 others)
{
	__u32 second = flow->second_rule >> CM_FLOW_SECOND_SHIFT;

	if (!(others >> (flow->rule >> CM_FLOW_NIC_SHIFT) & 1))
		flow->rule = slot << CM_FLOW_NIC_SHIFT | rule;
	else if (!flow->second_rule || !(others >> second & 1))
		flow->second_rule =
			rule <= SECOND_RULE_MASK ? slot << CM_FLOW_SECOND_SHIFT | rule : 0;
}

/*
 * Lets a flow that other NICs have seen begin be taken over by that of a slot. Without room for its rule, which tells so, it
 * is not.
 */
static __always_inline int ct_join(struct cm_flow *flow, __u32 slot)
{
	__u32 here = 1U << slot % CM_NICS;
	__u32 others = ct_passed(flow->verdict) & ~here;

	if (!flow->picked_up) {
		ct_keep_rule(flow, slot, CM_RULE_PICKED_UP, others);
		if (ct_rule_of(flow, slot) != CM_RULE_PICKED_UP)
			return 0;
	}
	flow->verdict = (flow->verdict | here << 16) & ~(__u64)here;
	return 1;
}

/* Nothing is left of the rule of a slot. */
static __always_inline void ct_forget_rule(struct cm_flow *flow, __u32 slot)
{
	if (flow->rule >> CM_FLOW_NIC_SHIFT == slot)
		flow->rule = slot << CM_FLOW_NIC_SHIFT;
	if (flow->second_rule >> CM_FLOW_SECOND_SHIFT == slot)
		flow->second_rule = 0;
}

static __always_inline int ct_is_alive(__u32 expires)
{
	return (__s32)(expires - flow_now()) > 0;
}

static __always_inline int is_syn(const struct packet *pkt)
{
	return (pkt->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* At least so many seconds. */
static __always_inline __u32 ct_ticks(__u32 seconds)
{
	return (seconds * config.jiffies_per_second >> CM_FLOW_TICK_SHIFT) + 1;
}

/* Another lifetime for each. */
static __always_inline enum cm_ct_age ct_age(const struct cm_flow *flow, __u8 protocol, __u32 now)
{
	if (protocol == IPPROTO_TCP)
		return flow->state & CM_CT_CLOSING     ? CM_CT_AGE_CLOSING :
		       flow->state & CM_CT_ESTABLISHED ? CM_CT_AGE_ESTABLISHED :
							 CM_CT_AGE_SYN;
	if (protocol != IPPROTO_UDP)
		return CM_CT_AGE_OTHER;
	return flow->state & CM_CT_ANSWERED &&
			       (__u16)(now - flow->born) > ct_ticks(CM_CT_STREAM_AGE) ?
		       CM_CT_AGE_UDP_STREAM :
		       CM_CT_AGE_UDP;
}

/* How long a flow lives on after a packet, in ticks. */
static __always_inline __u32 ct_lifetime(const struct cm_flow *flow, __u8 protocol, __u32 now)
{
	enum cm_ct_age age = ct_age(flow, protocol, now);

	if (config.role == CM_ROLE_NETDEV && flow->masqueraded)
		return ct_ticks(config.masqueraded_lifetime[age]) - 1;
	switch (age) {
	case CM_CT_AGE_SYN:
		return ct_ticks(CM_CT_LIFETIME_SYN);
	case CM_CT_AGE_ESTABLISHED:
		return ct_ticks(CM_CT_LIFETIME_ESTABLISHED);
	case CM_CT_AGE_CLOSING:
		return ct_ticks(CM_CT_LIFETIME_CLOSING);
	case CM_CT_AGE_UDP:
		return ct_ticks(CM_CT_LIFETIME_UDP);
	case CM_CT_AGE_UDP_STREAM:
		return ct_ticks(CM_CT_LIFETIME_UDP_STREAM);
	default:
		return ct_ticks(CM_CT_LIFETIME_OTHER);
	}
}

/* What arrives leaves a masqueraded flow as it is: whether the kernel still knows it, only what it sends tells. */
static __always_inline int ct_pushes_end_back(const struct cm_flow *flow,
					      enum cm_direction direction)
{
	return !(config.role == CM_ROLE_NETDEV && flow->masqueraded && direction == CM_INGRESS);
}

_Static_assert(CM_EGRESS == 1 && CM_CT_ESTABLISHED == 1 &&
		       CM_CT_FIN_REPLY == CM_CT_FIN_ORIGINATOR << 1 &&
		       CM_CT_CONFIRMED == CM_CT_ANSWERED << 1 && TCP_FIN == 1,
	       "bits that arithmetic makes from each other");

/* What a packet tells of its flow's progress if it is no SYN, FIN or RST; 1 if it goes backward, else 0. */
static __always_inline __u32 ct_progress(const struct cm_flow *flow, __u32 backward)
{
	__u32 forward = backward ^ 1;

	return (forward | ((flow->picked_up | flow->picked_up >> 1) & 1)) * CM_CT_ESTABLISHED |
	       backward * CM_CT_ANSWERED | ((flow->state & CM_CT_ANSWERED) * forward) << 1;
}

/* Whether nothing is left to find out about a packet's flow: allowed, alive, and as far as the packet tells. */
static __always_inline int ct_is_settled(const struct cm_flow *flow, __u32 epoch, __u32 backward)
{
	__u32 told = ct_progress(flow, backward);

	return ct_is_allowed(flow->verdict, epoch, backward) &&
	       (flow->state & (told | CM_CT_FIN_ORIGINATOR | CM_CT_FIN_REPLY | CM_CT_CLOSING |
			       CM_CT_RESET)) == told;
}

/* What a packet tells of its flow's progress. */
static __always_inline void ct_advance(struct policy_ctx *ctx, const struct packet *pkt)
{
	struct cm_flow *flow = &ctx->flow;
	__u32 backward = (packet_direction(pkt) ^ flow->direction) & 1;
	__u32 flags = pkt->tcp_flags;
	__u32 state = flow->state;
	__u32 reset = (flags & TCP_RST) / TCP_RST;
	__u32 received = packet_direction(pkt) ^ CM_EGRESS;
	__u32 now = flow_now();
	__u32 both, told;

	/* Without branches, of which the verifier would walk both sides of each. */
	told = ct_progress(flow, backward);
	/* A SYN of the other end answers, and begins nothing. */
	told &= ~((flags & TCP_SYN) / TCP_SYN * (CM_CT_ESTABLISHED | CM_CT_CONFIRMED));
	/* A RST is no answer. */
	told &= ~(reset * (CM_CT_ANSWERED | CM_CT_CONFIRMED));
	state |= told;
	state |= (flags & TCP_FIN) * CM_CT_FIN_ORIGINATOR << backward;
	both = state / CM_CT_FIN_ORIGINATOR & state / CM_CT_FIN_REPLY & 1;
	/* Not for ever after a RST: an attacker may have sent it, and the flow goes on. */
	state &= ~(CM_CT_CLOSING | CM_CT_RESET);
	state |= (both | (reset & ~received)) * CM_CT_CLOSING;
	state |= (reset & received) * CM_CT_RESET;
	flow->state = state;
	if (!ctx->expires ||
	    (!(state & CM_CT_RESET) && ct_pushes_end_back(flow, packet_direction(pkt))))
		ctx->expires = now + ct_lifetime(flow, pkt->l4_protocol, now);
}

_Static_assert(CT_MISS == 0, "what is_zero() tells of a new flow");

_Static_assert(CM_FLOW_OVER == 0 && CM_FLOW_UNANSWERED == 1 && CM_FLOW_WAITING == 2 &&
		       CM_FLOW_ANSWERED == 3 && CM_FLOW_FAILSAFE == 4,
	       "classes that arithmetic makes");

/* How much a flow is worth when there is no room for all; without branches. */
static __always_inline enum cm_flow_class ct_class(const struct cm_flow *flow)
{
	__u32 begun_here = flow->direction & CM_EGRESS;
	__u32 answered = flow->state / CM_CT_ANSWERED & 1;
	__u32 goes_on = answered & (begun_here | flow->state / CM_CT_CONFIRMED);
	__u32 is_over = (flow->state / CM_CT_CLOSING | flow->state / CM_CT_RESET) & 1;
	__u32 is_failsafe = is_zero((flow->rule & RULE_MASK) ^ CM_RULE_FAILSAFE);

	return (CM_FLOW_UNANSWERED + (begun_here | answered) + goes_on * (1 + is_failsafe)) *
	       (is_over ^ 1);
}

/* Whether a packet begins a flow anew, on a 5-tuple that an older one still holds. */
static __always_inline int ct_begins_anew(const struct cm_flow *flow, const struct packet *pkt)
{
	if (!is_syn(pkt))
		return 0;
	if (flow->picked_up || flow->state & (CM_CT_CLOSING | CM_CT_RESET))
		return 1;
	/*
	 * Against the flow: only two ends that open at once may (RFC 9293, 3.5). To a masqueraded one nobody may: the
	 * kernel may have forgotten it, and would give the SYN to this host.
	 */
	return packet_direction(pkt) != flow->direction &&
	       (flow->masqueraded || flow->state & CM_CT_ESTABLISHED);
}

/* Looks in one bucket, without a lock. */
static __always_inline enum flow_read ct_read_bucket(const union flow_key *key, __u64 family,
						     __u32 second, struct policy_ctx *ctx)
{
	struct flow_bucket *bucket = flow_bucket_of(ctx->where.buckets[second], family);

	if (!bucket)
		return FLOW_MISSING;
	ctx->place = CT_IN_FIRST + second;
	return flow_read(bucket, family, key->words, ctx);
}

/* Looks in both. Not by a loop over them: what clang made of that Linux 6.1 took for one without an end. */
static __always_inline enum flow_read ct_read(const union flow_key *key, __u64 family,
					      struct policy_ctx *ctx)
{
	enum flow_read read;

	flow_hash(&ctx->where, key->words, family == FLOW_V6);
	read = ct_read_bucket(key, family, 0, ctx);
	if (read == FLOW_MISSING)
		read = ct_read_bucket(key, family, 1, ctx);
	return read;
}

/*
 * Reads a packet's flow quickly. What was read stands in the caller's memory and no pointer is left, so that the verifier
 * walks on once, wherever it was found. Two copies of the code, since one for both families costs each packet more.
 */
static __always_inline enum flow_read ct_find_quickly(const struct tuple *tuple,
						      union flow_key *key, struct policy_ctx *ctx)
{
	enum flow_read read;

	if (tuple->local->family == CM_IPV4) {
		ct4_key(key, tuple);
		ct4_fill(key);
		read = ct_read(key, FLOW_V4, ctx);
	} else {
		ct6_key(key, tuple);
		/* In memory, not in copies as well. */
		barrier();
		read = ct_read(key, FLOW_V6, ctx);
	}
	barrier();
	return read;
}

/* What ct_visit() has found. */
enum ct_visited {
	CT_ABSENT,
	CT_PRESENT,
	CT_LEASE, /* a request of DHCP that has not expired */
};

static __always_inline enum ct_visited ct_present(struct flow_bucket *bucket, __u64 family,
						  __u32 way, __u32 now)
{
	const struct cm_flow *flow = (const void *)flow_value(bucket, family, way);

	return config.role == CM_ROLE_CONTAINER && flow->rule == CM_RULE_DHCP && flow->verdict &&
			       (__s32)(bucket->head.ways.expires[way] - now) > 0 ?
		       CT_LEASE :
		       CT_PRESENT;
}

/*
 * Does something with a flow in one of its buckets, under the lock. The functions from here to find_flow() are global ones,
 * since they seldom run.
 */
__noinline int ct_visit(const union flow_key *key, int is_v6, const struct flow_place *where,
			enum flow_act act, struct policy_ctx *ctx)
{
	enum ct_visited visited = CT_ABSENT;
	__u32 way, now = flow_now();
	struct flow_bucket *bucket;
	__u64 family;

	if (!key || !where || !has_policy())
		return CT_ABSENT;
	bucket = flow_bucket_at(flow_bucket_index(where, act / FLOW_IN_SECOND), is_v6, &family);
	if (!bucket)
		return CT_ABSENT;
	bpf_spin_lock(&bucket->lock);
	way = find_way_flat(bucket, family, key->words,
			    flow_matches(&bucket->head.ways, where->tag));
	if (way < CM_FLOW_WAYS) {
		/* For the verifier, which clang would take the mask from. */
		barrier_var(way);
		way %= CM_FLOW_WAYS;
		visited = ct_present(bucket, family, way, now);
		flow_act(bucket, family, way, act & FLOW_ACT_MASK, ctx);
	}
	bpf_spin_unlock(&bucket->lock);
	return visited;
}

__noinline int ct_locate(const union flow_key *key, int is_v6, struct flow_place *where)
{
	if (key && where)
		flow_hash(where, key->words, is_v6);
	return 0;
}

/* Reads a flow for certain, for whom ct_find_quickly() is of no use: where it is, and in `where` where it would be. */
static __always_inline enum ct_place ct_take(const union flow_key *key, int is_v6,
					     struct policy_ctx *ctx)
{
	ct_locate(key, is_v6, &ctx->where);
	if (ct_visit(key, is_v6, &ctx->where, FLOW_COPY, ctx))
		return CT_IN_FIRST;
	if (ct_visit(key, is_v6, &ctx->where, FLOW_COPY | FLOW_IN_SECOND, ctx))
		return CT_IN_SECOND;
	return CT_NOWHERE;
}

/* What a packet's flow is found by, as if it went in a direction; whether it is of IPv6. */
__noinline int packet_key(const struct packet *pkt, union flow_key *key,
			  enum cm_direction direction)
{
	struct tuple tuple;

	if (!pkt || !key || !has_policy())
		return 0;
	tuple = tuple_of(pkt, direction);
	return ct_key(key, &tuple);
}

/* Reads a packet's flow for certain. */
__noinline int find_flow(const struct packet *pkt, struct policy_ctx *ctx,
			 enum cm_direction direction)
{
	union flow_key key = {};
	int is_v6;

	if (!pkt || !ctx)
		return 0;
	is_v6 = packet_key(pkt, &key, direction);
	ctx->place = ct_take(&key, is_v6, ctx);
	return 0;
}

/* Which bucket has more room for a new flow (`place`), and what flow_scan() has said of it. */
static __always_inline void ct_scan(struct policy_ctx *ctx, int is_v6)
{
	__u32 now = flow_now();
	__u64 chosen = 0;

	ctx->place = CT_IN_FIRST;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 2; i++) {
		struct flow_bucket *bucket;
		__u64 family, scan, room, better;

		bucket = flow_bucket_at(flow_bucket_index(&ctx->where, i), is_v6, &family);
		if (!bucket)
			break;
		scan = flow_scan(&bucket->head, now, ctx->where.tag);
		/* Without branches: the first, and the second if that has more. */
		room = scan >> FLOW_SCAN_ROOM & 0xff;
		better = ((chosen >> FLOW_SCAN_ROOM & 0xff) - room) >> 63;
		barrier_var(better);
		ctx->place += i & better;
		chosen ^= (chosen ^ scan) & -(better | (i ^ 1));
	}
	ctx->scan = chosen;
}

/*
 * One try to write a flow: where it is (`place`), or into the emptier of its buckets; the next try is in the other one if
 * there is no room in this. enum flow_put. A global function, for its stack.
 */
__noinline int ct_put(const union flow_key *key, int is_v6, struct policy_ctx *ctx)
{
	struct flow_place *where;
	struct flow_target to;
	enum flow_put put;
	__u64 twin = 0;

	if (!key || !ctx || !has_policy())
		return FLOW_FULL;
	where = &ctx->where;
	ctx->scan = 0;
	/* Not expected, since the verifier first walks the way that is, and then sees that this one differs in nothing. */
	if (__builtin_expect(ctx->place == CT_NOWHERE, 0))
		ct_scan(ctx, is_v6);
	to.is_new = is_zero(ctx->ct) & ~is_zero(where->buckets[0] ^ where->buckets[1]);
	to.bucket = flow_bucket_at(flow_bucket_index(where, ctx->place - CT_IN_FIRST), is_v6,
				   &to.family);
	if (!to.bucket)
		return FLOW_FULL;
	to.other = flow_bucket_of(flow_bucket_index(where, (ctx->place - CT_IN_FIRST) ^ to.is_new),
				  to.family);
	if (!to.other)
		return FLOW_FULL;
	barrier();
	if (!ctx->scan)
		ctx->scan = (__u64)flow_seq(to.bucket) << FLOW_SCAN_SEQ;
	flow_order();
	put = flow_put(&to, key->words, ctx, &twin);
	if (put == FLOW_FULL)
		ctx->place ^= CT_IN_FIRST ^ CT_IN_SECOND;
	/* Another CPU may have put the same flow into the other bucket: the first one's counts. */
	if (twin && ct_visit(key, is_v6, where, FLOW_LOOK, NULL))
		ct_visit(key, is_v6, where, FLOW_REMOVE | FLOW_IN_SECOND, NULL);
	return put;
}

#endif
