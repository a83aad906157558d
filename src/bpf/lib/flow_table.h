/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The table of flows: buckets of eight ways, of which a flow may be in two. A lookup compares eight tags at
 * once and takes no lock; whoever writes holds the bucket's.
 *
 * That no reader takes another flow's verdict for its own: a writer makes `seq` odd, then writes, then makes it even
 * again, and its lock keeps others out. A reader looks at `seq`, reads key and verdict, looks again, and believes them
 * only if it saw the same even number twice. If any of what it read was of a later write, then the second look comes
 * behind that write's odd number; if any was of an earlier one, then the first look came before its even number, and
 * the second sees another. So all of it is of one moment, and the key says whose it is. This takes reads and writes
 * that are seen in their order. On x86 they are; elsewhere (cm_config.weakly_ordered) an atomic operation with a
 * result stands between them, which the kernel's memory model takes for a full barrier. litmus/flow-table.litmus has it.
 *
 * Two locks at once are not to be had. So two CPUs may put one flow into a bucket each: whoever writes its tag looks at the
 * tags of the other bucket behind a full barrier, so that at least one of them sees both. With the other bucket's lock, which
 * waits until that flow is there whole, it is taken out of the second. Until then a reader finds the one in the first.
 */
#ifndef CILMARK_FLOW_TABLE_H
#define CILMARK_FLOW_TABLE_H

#include "abi/config.h"
#include "abi/maps.h"
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "policy_ctx.h"

/*
 * Sized by user space: see CM_FLOW_LOAD_PERCENT. Nobody maps them, but the kernel lets such an array begin with a page, and
 * so the head of each bucket is one line of the cache.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cm_flows4);
} cm_flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cm_flows6);
} cm_flows6 SEC(".maps");

/* What of a bucket can be read without its lock, but for the flows. */
struct flow_head {
	__u32 seq;
	struct cm_flow_ways ways;
};

/* What cm_flows4 and cm_flows6 have in common. */
struct flow_bucket {
	struct bpf_spin_lock lock;
	struct flow_head head;
};

_Static_assert(sizeof(struct flow_bucket) == __builtin_offsetof(struct cm_flows4, slots) &&
		       sizeof(struct flow_bucket) == __builtin_offsetof(struct cm_flows6, slots),
	       "one head of both");

enum {
	FLOW4_WORDS = sizeof(struct cm_ct4_key) / sizeof(__u64),
	FLOW6_WORDS = sizeof(struct cm_ct6_key) / sizeof(__u64),
	FLOW_WORDS = sizeof(struct cm_flow) / sizeof(__u64),
};

_Static_assert(FLOW6_WORDS <= FLOW4_WORDS + FLOW_WORDS,
	       "a slot of IPv4 has as many words as a key of IPv6");

/*
 * What a slot begins with. Functions that serve both families take as many words as IPv6 has, and which family's they
 * are; what is behind a key of IPv4 is ignored.
 */
union flow_key {
	struct cm_ct4_key v4;
	struct cm_ct6_key v6;
	__u64 words[FLOW6_WORDS];
};

/*
 * Of two calls that differ in their maps clang likes to make one, which the kernel can neither inline
 * nor make direct. With a constant of its own behind it, a call stays what it is. Not with a comment, which
 * gets a line record at the offset of the next instruction: the kernel refuses two at one.
 */
#define STAYS_A_CALL_OF_ITS_OWN(number) asm volatile("" ::"i"(number))

/*
 * Which family a bucket is of: all ones of IPv6, else 0. Where it is no constant, sums and masks are made of it, since Linux 6.1
 * knows nothing of products and negations, and of branches clang would make two copies of all that follows.
 */
#define FLOW_V4 0ULL
#define FLOW_V6 (~0ULL)

/* A bucket of a family, for code that serves one. */
static __always_inline struct flow_bucket *flow_bucket_of(__u32 index, __u64 family)
{
	struct flow_bucket *bucket;

	if (family) {
		bucket = bpf_map_lookup_elem(&cm_flows6, &index);
		STAYS_A_CALL_OF_ITS_OWN(CM_IPV6);
	} else {
		bucket = bpf_map_lookup_elem(&cm_flows4, &index);
		STAYS_A_CALL_OF_ITS_OWN(CM_IPV4);
	}
	return bucket;
}

/*
 * The same for code that serves both. The family is a number to the verifier, on whichever way it comes here, since clang
 * does not know it: it would compute it before it branches.
 */
static __always_inline struct flow_bucket *flow_bucket_at(__u32 index, int is_v6, __u64 *family)
{
	struct flow_bucket *bucket;

	if (is_v6) {
		bucket = bpf_map_lookup_elem(&cm_flows6, &index);
		asm volatile("%0 = -1" : "=r"(*family));
	} else {
		bucket = bpf_map_lookup_elem(&cm_flows4, &index);
		asm volatile("%0 = 0" : "=r"(*family));
	}
	return bucket;
}

static __always_inline __u64 key_words(__u64 family)
{
	return FLOW4_WORDS + (family & (FLOW6_WORDS - FLOW4_WORDS));
}

/* The first bucket, or the second: not by an index, of which clang makes arithmetic that the verifier refuses. */
static __always_inline __u32 flow_bucket_index(const struct flow_place *place, __u32 second)
{
	__u32 mask = -(second & 1);

	barrier_var(mask);
	return place->buckets[0] ^ ((place->buckets[0] ^ place->buckets[1]) & mask);
}

static __always_inline __u64 *flow_slot(struct flow_bucket *bucket, __u64 family, __u32 way)
{
	__u64 *slots = (__u64 *)(bucket + 1);

	way &= CM_FLOW_WAYS - 1;
	if (__builtin_constant_p(family))
		return slots + way * (key_words(family) + FLOW_WORDS);
	return slots + way * (FLOW4_WORDS + FLOW_WORDS) +
	       (way * (FLOW6_WORDS - FLOW4_WORDS) & family);
}

/* What is behind the key of a slot. */
static __always_inline __u64 *flow_value(struct flow_bucket *bucket, __u64 family, __u32 way)
{
	return flow_slot(bucket, family, way) + key_words(family);
}

#define FLOW_ONES 0x0101010101010101ULL

_Static_assert(CM_FLOW_CLASSES <= 128, "bytes that are compared at once");

static __always_inline __u32 flow_now(void)
{
	return bpf_jiffies64() >> CM_FLOW_TICK_SHIFT;
}

/* 1 of what is 0, else 0: without a branch. */
static __always_inline __u64 is_zero(__u64 bits)
{
	bits = ~(bits | -bits) >> 63;
	barrier_var(bits);
	return bits;
}

/* All reads and writes before it are seen by other CPUs before all behind it. */
static __always_inline void flow_barrier(void)
{
	__u32 word = 0;

	/* For clang not to know that nobody else sees it. An exchange, since additions have no order without a result. */
	asm volatile("" ::"r"(&word) : "memory");
	__sync_lock_test_and_set(&word, 1);
	barrier();
}

/* The same but for a write before and a read behind it, which x86 alone exchanges. */
static __always_inline void flow_order(void)
{
	if (config.weakly_ordered)
		flow_barrier();
	else
		barrier();
}

static __always_inline __u64 hash_words(const __u64 *words, int from, int to)
{
	__u64 sum = 0;

#pragma clang loop unroll(full)
	for (int i = from; i < to; i++)
		sum += (__u64)(__u32)(words[i] + config.flow_seed[i]) *
		       (__u32)((words[i] >> 32) + (config.flow_seed[i] >> 32));
	return sum;
}

/*
 * NH with a secret (RFC 4418, 5.2): two keys have the same sum with a probability of 2^-32 whoever has chosen them,
 * and what follows spreads sums. A sender who knows no secret can't fill a bucket of his choice.
 */
static __always_inline void flow_hash(struct flow_place *place, const __u64 *key, int is_v6)
{
	__u32 buckets = is_v6 ? config.flow_buckets[1] : config.flow_buckets[0];
	__u64 sum = hash_words(key, 0, FLOW4_WORDS);

	if (is_v6)
		sum += hash_words(key, FLOW4_WORDS, FLOW6_WORDS);
	/* Of ports in a row a product alone would make buckets in a row. */
	sum *= config.flow_seed[6] | 1;
	sum ^= sum >> 32;
	/* 1 to 255, since 0 stands for nobody. Without a branch, behind which the verifier would walk all twice. */
	place->tag = ((__u8)(sum >> 24) * 255 >> 8) + 1;
	sum *= config.flow_seed[7] | 1;
	place->buckets[0] = (sum >> 32) * buckets >> 32;
	place->buckets[1] = (__u64)(__u32)sum * buckets >> 32;
}

/* The top bit of each byte that is this one. */
static __always_inline __u64 ways_with(__u64 bytes, __u8 byte)
{
	__u64 differ = bytes ^ FLOW_ONES * byte;

	return ~(((differ & ~(FLOW_ONES << 7)) + ~(FLOW_ONES << 7)) | differ) & FLOW_ONES << 7;
}

/* The top bit of each byte that is the tag. */
static __always_inline __u64 flow_matches(const struct cm_flow_ways *ways, __u8 tag)
{
	return ways_with(*(const volatile __u64 *)ways->tag, tag);
}

/* Which byte has the lowest of these bits. */
static __always_inline __u32 lowest_way(__u64 bits)
{
	return ((bits & -bits) >> 7) * 0x0001020304050607ULL >> 56 & (CM_FLOW_WAYS - 1);
}

static __always_inline __u32 count_ways(__u64 bits)
{
	return (bits >> 7) * FLOW_ONES >> 56;
}

/* Read from memory each time, but for the two words of an IPv4 key: copies would fill the stack. */
static __always_inline __u64 key_differs(const volatile __u64 *there, const __u64 *key,
					 __u64 family)
{
	const volatile __u64 *in_memory = key;
	__u64 differ = 0, more = 0;

	if (__builtin_constant_p(family) && family == FLOW_V4)
		return (there[0] ^ key[0]) | (there[1] ^ key[1]);
#pragma clang loop unroll(full)
	for (int i = 0; i < FLOW6_WORDS; i++) {
		__u64 bits = there[i] ^ in_memory[i];

		if (i < FLOW4_WORDS)
			differ |= bits;
		else
			more |= bits;
	}
	return differ | (more & family);
}

enum {
	/* Ways of a bucket that may have one tag, so that no search has to try more. */
	FLOW_WAYS_OF_TAG = 2,
};

/*
 * Where in a bucket a flow goes if that way is free, and is most probably found: a CPU that expects it there fetches the
 * key while it still compares tags.
 */
static __always_inline __u32 home_way(__u8 tag)
{
	return tag & (CM_FLOW_WAYS - 1);
}

/* Which way of a bucket has a key, of those that `matches` its tag; or CM_FLOW_WAYS. */
static __always_inline __u32 find_way(struct flow_bucket *bucket, __u64 family, const __u64 *key,
				      __u64 matches, __u8 tag)
{
	__u32 way = home_way(tag);

	if (!matches)
		return CM_FLOW_WAYS;
	if (!(matches >> 8 * way & 0x80))
		way = lowest_way(matches);
	if (!key_differs(flow_slot(bucket, family, way), key, family))
		return way;
	matches &= ~(0x80ULL << 8 * way);
	way = lowest_way(matches);
	if (matches && !key_differs(flow_slot(bucket, family, way), key, family))
		return way;
	return CM_FLOW_WAYS;
}

/*
 * The same for who writes, off the fast path: without branches, of which the verifier would walk all that follows behind
 * each. Both ways that may have the tag are compared.
 */
static __always_inline __u32 find_way_flat(struct flow_bucket *bucket, __u64 family,
					   const __u64 *key, __u64 matches)
{
	__u64 more = matches & (matches - 1);
	__u32 first = lowest_way(matches);
	/* The same way where there is but one, of which no more memory is read. */
	__u32 second = lowest_way(more | matches * is_zero(more));
	__u64 is_first, is_second;

	if (!matches)
		return CM_FLOW_WAYS;
	is_first = is_zero(key_differs(flow_slot(bucket, family, first), key, family));
	is_second =
		is_zero(key_differs(flow_slot(bucket, family, second), key, family)) & ~is_first;
	return first * is_first + second * is_second + CM_FLOW_WAYS * ((is_first | is_second) ^ 1);
}

/* The top bit of each byte whose way is free for certain: what is there has expired. */
static __always_inline __u64 free_ways(const struct cm_flow_ways *ways, __u32 now)
{
	__u64 bits = 0;

	/* Without branches, as all here that goes through the ways: the verifier would walk 2^8 ways through. */
#pragma clang loop unroll(full)
	for (int i = 0; i < CM_FLOW_WAYS; i++) {
		__u32 expires = *(const volatile __u32 *)&ways->expires[i];

		bits |= (__u64)((expires - now - 1) >> 31) << (8 * i + 7);
		/* One after the other, so that they don't fill the stack. */
		barrier_var(bits);
	}
	return bits;
}

/* The same of each way whose flow is of a lower class. */
static __always_inline __u64 ways_below(__u64 classes, enum cm_flow_class class)
{
	return ~(classes + FLOW_ONES * (0x80 - class)) & FLOW_ONES << 7;
}

/*
 * How much room a bucket has for a new flow: the free ways count most, those whose flow gives way the less the less
 * it does, and those of answered flows not. Under a flood no way is free: by these alone buckets would be chosen
 * blindly, and answered flows crowd in some.
 */
static __always_inline __u32 room_of(const struct cm_flow_ways *ways, __u64 free)
{
	__u64 classes = *(const volatile __u64 *)ways->class;

	return count_ways(free | ways_below(classes, CM_FLOW_UNANSWERED)) +
	       count_ways(free | ways_below(classes, CM_FLOW_WAITING)) +
	       count_ways(free | ways_below(classes, CM_FLOW_ANSWERED));
}

/* What flow_scan() has found, from the lowest bit on. */
enum {
	FLOW_SCAN_WAY = 2 * CM_FLOW_WAYS - 1, /* which free way is the flow's, or CM_FLOW_WAYS */
	FLOW_SCANNED = 2 * CM_FLOW_WAYS,
	FLOW_SCAN_ROOM = 8,
	FLOW_SCAN_SEQ = 32, /* of the bucket, from before */
};

/* Looks whether there is room in a bucket for a new flow. A global function, since it is done with two. */
__noinline __u64 flow_scan(const struct flow_head *head, __u32 now, __u32 tag)
{
	__u64 seq, free, home;

	if (!head)
		return 0;
	seq = *(const volatile __u32 *)&head->seq;
	flow_order();
	free = free_ways(&head->ways, now);
	home = free & 0x80ULL << 8 * home_way(tag);
	return seq << FLOW_SCAN_SEQ | room_of(&head->ways, free) << FLOW_SCAN_ROOM | FLOW_SCANNED |
	       is_zero(free) * CM_FLOW_WAYS | lowest_way(home | free * is_zero(home));
}

/* The low byte of a scope, but that of the host's flows is nobody else's. */
static __always_inline __u8 scope_byte(__u32 scope)
{
	return (scope % 255 + 1) * (is_zero(scope) ^ 1);
}

/* Of some ways those of the scope that has most of the bucket, or of those that have as many. */
static __always_inline __u64 ways_of_largest(__u64 scopes, __u64 some)
{
	__u64 shares = 0, most = 0;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < CM_FLOW_WAYS; i++) {
		__u64 share = count_ways(ways_with(scopes, scopes >> 8 * i));
		__u64 larger;

		share *= some >> (8 * i + 7) & 1;
		shares |= share << 8 * i;
		/* Without branches, which clang would like to make of it. */
		larger = (most - share) >> 63;
		barrier_var(larger);
		most += larger * (share - most);
	}
	return ways_with(shares, most) & some;
}

/* Which of some ways has been idle for longest; of those that are equally old it is the turn of the next one. */
static __always_inline __u32 oldest_way(const struct cm_flow_ways *ways, __u64 some, __u32 now,
					__u32 turn)
{
	__u64 oldest = ~0ULL >> 1;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < CM_FLOW_WAYS; i++) {
		__u64 score = (__u64)(ways->expires[i] - now) << 3 |
			      ((i - turn) & (CM_FLOW_WAYS - 1)) | (~some >> (8 * i + 7) & 1) << 40;
		__u64 smaller;

		score -= oldest;
		smaller = (__u64)((__s64)score >> 63);
		barrier_var(smaller);
		oldest += score & smaller;
	}
	return (oldest + turn) & (CM_FLOW_WAYS - 1);
}

/*
 * Who of a full bucket makes room for a new flow, or CM_FLOW_WAYS: what is over; then of the scope that has most of the
 * ways the lowest class, and of that who has been idle for longest. None that is answered: a flood of first packets
 * would end connections. But of a scope that has all ways of the bucket one gives way to another scope's, else a
 * workload could keep all others out. A global function, since it seldom runs.
 */
__noinline int flow_to_displace(const struct cm_flow_ways *ways, __u32 now, __u32 scope, __u32 turn)
{
	__u64 scopes, classes, some, lowest;
	int is_of_one;

	if (!ways)
		return CM_FLOW_WAYS;
	scopes = *(const volatile __u64 *)ways->scope;
	classes = *(const volatile __u64 *)ways->class;
	is_of_one = scopes == FLOW_ONES * (__u8)scopes;
	some = ways_below(classes, CM_FLOW_UNANSWERED);
	if (some)
		return lowest_way(some);
	some = ways_below(classes, CM_FLOW_ANSWERED);
	if (some && !is_of_one)
		some = ways_of_largest(scopes, some);
	if (!some && is_of_one && (__u8)scopes != (__u8)scope)
		some = ways_below(classes, CM_FLOW_FAILSAFE);
	if (!some)
		return CM_FLOW_WAYS;
	lowest = some & ways_below(classes, CM_FLOW_WAITING);
	return oldest_way(ways, lowest ? lowest : some, now, turn);
}

static __always_inline __u32 flow_seq(const struct flow_bucket *bucket)
{
	return *(const volatile __u32 *)&bucket->head.seq;
}

/* Around what who holds the lock writes. */
static __always_inline void flow_write_begins(struct flow_bucket *bucket)
{
	*(volatile __u32 *)&bucket->head.seq = bucket->head.seq + 1;
	flow_order();
}

static __always_inline void flow_write_ends(struct flow_bucket *bucket)
{
	flow_order();
	*(volatile __u32 *)&bucket->head.seq = bucket->head.seq + 1;
}

enum flow_put {
	FLOW_PUT,
	FLOW_DISTURBED, /* by another writer; try again */
	FLOW_FULL,
};

/* Where in a bucket a flow is to be written: a way, or CM_FLOW_WAYS. */
static __always_inline __u32 flow_choose(struct flow_bucket *bucket, __u64 family, const __u64 *key,
					 struct policy_ctx *ctx)
{
	struct cm_flow_ways *ways = &bucket->head.ways;
	__u64 matches = flow_matches(ways, ctx->where.tag);
	__u32 way = find_way_flat(bucket, family, key, matches);

	ctx->displaced = 0;
	if (way < CM_FLOW_WAYS || count_ways(matches) >= FLOW_WAYS_OF_TAG)
		return way;
	way = ctx->scan & FLOW_SCAN_WAY;
	if (!(ctx->scan & FLOW_SCANNED))
		way = flow_scan(&bucket->head, flow_now(), ctx->where.tag) & FLOW_SCAN_WAY;
	if (way < CM_FLOW_WAYS)
		return way;
	way = flow_to_displace(ways, flow_now(), ctx->where.scope,
			       ctx->scan >> (FLOW_SCAN_SEQ + 1));
	if (way < CM_FLOW_WAYS)
		ctx->displaced = ways->class[way % CM_FLOW_WAYS] + 1;
	return way;
}

/* The bucket that a flow is written to. */
struct flow_target {
	struct flow_bucket *bucket;
	struct flow_bucket *other; /* where a new one may be as well; the same if it is none */
	__u64 family;
	__u64 is_new;
};

/*
 * Writes a flow into a bucket, in its place or in that of one which gives way. What is to be found out is found out
 * before the lock is taken, and counts if nobody has written since (`scan`). Whether a new flow may be in its other bucket as
 * well (`twin`) is looked at once the tag is there, and before the slot is written: a barrier waits for all that was
 * written before it, and the slot is in no cache, while tags are.
 */
static __always_inline enum flow_put flow_put(const struct flow_target *to, const __u64 *key,
					      struct policy_ctx *ctx, __u64 *twin)
{
	__u32 way = flow_choose(to->bucket, to->family, key, ctx);
	struct flow_bucket *bucket = to->bucket;
	struct cm_flow_ways *ways = &bucket->head.ways;
	int is_same;

	if (way >= CM_FLOW_WAYS)
		return FLOW_FULL;
	barrier_var(way);
	way %= CM_FLOW_WAYS;
	bpf_spin_lock(&bucket->lock);
	is_same = bucket->head.seq == ctx->scan >> FLOW_SCAN_SEQ;
	if (is_same) {
		volatile __u64 *slot = flow_slot(bucket, to->family, way);
		const __u64 *flow = (const __u64 *)&ctx->flow;

		flow_write_begins(bucket);
		*(volatile __u8 *)&ways->tag[way] = ctx->where.tag;
		if (to->is_new)
			flow_barrier();
		*twin = flow_matches(&to->other->head.ways, ctx->where.tag) & -to->is_new;
		ways->expires[way] = ctx->expires;
		ways->class[way] = ctx->class;
		ways->scope[way] = ctx->where.scope;
		/* Of IPv4 too much, over which the flow is written. */
#pragma clang loop unroll(full)
		for (int i = 0; i < FLOW6_WORDS; i++)
			slot[i] = key[i];
		slot += key_words(to->family);
#pragma clang loop unroll(full)
		for (int i = 0; i < FLOW_WORDS; i++)
			slot[i] = flow[i];
		flow_write_ends(bucket);
	}
	bpf_spin_unlock(&bucket->lock);
	return is_same ? FLOW_PUT : FLOW_DISTURBED;
}

static __always_inline void flow_copy(struct policy_ctx *ctx, struct flow_bucket *bucket,
				      __u64 family, __u32 way)
{
	const volatile __u64 *flow = flow_value(bucket, family, way);
	__u64 *copy = (__u64 *)&ctx->flow;

#pragma clang loop unroll(full)
	for (int i = 0; i < FLOW_WORDS; i++)
		copy[i] = flow[i];
	ctx->expires = *(const volatile __u32 *)&bucket->head.ways.expires[way];
}

enum flow_read {
	FLOW_MISSING,
	FLOW_READ,
	FLOW_TORN, /* a writer was there: what was read is of no one moment */
};

/* Reads a flow of a bucket without its lock. */
static __always_inline enum flow_read flow_read(struct flow_bucket *bucket, __u64 family,
						const __u64 *key, struct policy_ctx *ctx)
{
	__u32 first = flow_seq(bucket);
	__u8 tag = ctx->where.tag;
	__u32 way;

	flow_order();
	way = find_way(bucket, family, key, flow_matches(&bucket->head.ways, tag), tag);
	if (way == CM_FLOW_WAYS)
		return FLOW_MISSING;
	flow_copy(ctx, bucket, family, way);
	flow_order();
	return flow_seq(bucket) == first && !(first & 1) ? FLOW_READ : FLOW_TORN;
}

/* Whether a flow of a bucket is as it was read. */
static __always_inline int flow_is_same(const struct policy_ctx *ctx, struct flow_bucket *bucket,
					__u64 family, __u32 way)
{
	const volatile __u64 *there = flow_value(bucket, family, way);
	const volatile __u64 *flow = (const __u64 *)&ctx->flow;
	__u64 differ = 0;

#pragma clang loop unroll(full)
	for (int i = 0; i < FLOW_WORDS; i++)
		differ |= there[i] ^ flow[i];
	return !differ;
}

/* What is done with a flow of a bucket, under its lock. */
enum flow_act {
	FLOW_LOOK,
	FLOW_COPY, /* into the context */
	FLOW_PUSH, /* its end back to what the context says, if it is as in the context */
	FLOW_REMOVE,
	FLOW_ACT_MASK = 3,
	FLOW_IN_SECOND = 4, /* added: of its two buckets not in the first */
};

static __always_inline void flow_act(struct flow_bucket *bucket, __u64 family, __u32 way,
				     enum flow_act act, struct policy_ctx *ctx)
{
	struct cm_flow_ways *ways = &bucket->head.ways;

	if (act == FLOW_REMOVE) {
		flow_write_begins(bucket);
		ways->tag[way] = 0;
		ways->expires[way] = 0;
		flow_write_ends(bucket);
	} else if (act == FLOW_COPY && ctx) {
		flow_copy(ctx, bucket, family, way);
	} else if (act == FLOW_PUSH && ctx && flow_is_same(ctx, bucket, family, way)) {
		ways->expires[way] = ctx->expires;
	}
}

#endif
