/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What user space does with single flows: it has no lock of a bucket, and so runs a program that takes it
 * (BPF_PROG_TEST_RUN), with what is to be done in the packet, where it finds what has come of it.
 */
#ifndef CILMARK_FLOW_EDIT_H
#define CILMARK_FLOW_EDIT_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include "conntrack.h"
#include "flow_table.h"
#include "inquiry.h"

/* Never written: what is in no map reaches the object's BTF only through a variable. */
struct cm_flow_edit flow_edit_layout;

static __always_inline int flow4_delete(const struct cm_ct4_key *key)
{
	struct flow_place place;
	int removed = 0;

	flow_hash(&place, (const __u32 *)key, 2 * FLOW4_WORDS, config.flow_buckets[0]);
#pragma clang loop unroll(disable)
	for (int i = 0; i < 2; i++) {
		struct cm_flows4 *bucket = flows4_bucket(&place, i);

		if (bucket)
			removed |=
				flow_remove((struct flow_bucket *)bucket,
					    (const __u8 *)bucket->slots, sizeof(bucket->slots[0]),
					    (const __u64 *)key, FLOW4_WORDS, place.tag);
	}
	return removed;
}

static __always_inline int flow6_delete(const struct cm_ct6_key *key)
{
	struct flow_place place;
	int removed = 0;

	flow_hash(&place, (const __u32 *)key, 2 * FLOW6_WORDS, config.flow_buckets[1]);
#pragma clang loop unroll(disable)
	for (int i = 0; i < 2; i++) {
		struct cm_flows6 *bucket = flows6_bucket(&place, i);

		if (bucket)
			removed |=
				flow_remove((struct flow_bucket *)bucket,
					    (const __u8 *)bucket->slots, sizeof(bucket->slots[0]),
					    (const __u64 *)key, FLOW6_WORDS, place.tag);
	}
	return removed;
}

static __always_inline void flow4_key_of(struct cm_ct4_key *key, const struct cm_flow_edit *edit)
{
	*key = (struct cm_ct4_key){
		.local = edit->key.local.words[0],
		.remote = edit->key.remote.words[0],
		.local_port = edit->key.local_port,
		.remote_port = edit->key.remote_port,
		.scope = edit->key.scope,
		.scope_high = edit->key.scope_high,
		.protocol = edit->key.protocol,
	};
}

/* Global functions, which the verifier walks once each. Where the flow is, as ct4_take() says it. */
__noinline int edit_take(const struct cm_flow_edit *edit, struct inquiry *inquiry)
{
	if (!edit || !inquiry)
		return 0;
	if (edit->family == CM_IPV4) {
		struct cm_ct4_key key FLOW_KEY;

		flow4_key_of(&key, edit);
		return ct4_take(&key, inquiry);
	}
	return ct6_take(&edit->key, inquiry);
}

__noinline int edit_delete(const struct cm_flow_edit *edit)
{
	if (!edit)
		return CM_FLOW_ABSENT;
	if (edit->family == CM_IPV4) {
		struct cm_ct4_key key FLOW_KEY;

		flow4_key_of(&key, edit);
		return flow4_delete(&key) ? CM_FLOW_DONE : CM_FLOW_ABSENT;
	}
	return flow6_delete(&edit->key) ? CM_FLOW_DONE : CM_FLOW_ABSENT;
}

/* One try: enum flow_put. */
__noinline int edit_put(const struct cm_flow_edit *edit, struct inquiry *inquiry)
{
	if (!edit || !inquiry)
		return FLOW_FULL;
	if (edit->family == CM_IPV4) {
		struct cm_ct4_key key FLOW_KEY;

		flow4_key_of(&key, edit);
		return ct4_put(&key, inquiry);
	}
	return ct6_put(&edit->key, inquiry);
}

/* Which NICs but the one of a slot have let a flow pass. */
static __always_inline __u32 let_pass_elsewhere(const struct cm_flow *flow, __u32 slot)
{
	return ct_passed(flow->verdict) & ~ct_denied(flow->verdict) & ~(1U << slot % CM_NICS);
}

static __always_inline enum cm_flow_edited edit_add(const struct cm_flow_edit *edit,
						    struct inquiry *inquiry)
{
	__u32 slot = edit->flow.rule >> CM_FLOW_NIC_SHIFT;
	int put = FLOW_FULL, is_there;

	is_there = inquiry->place && ct_is_alive(inquiry->expires);
	if (is_there && !(ct_denied(inquiry->flow.verdict) & 1U << slot % CM_NICS) &&
	    ct_passed(inquiry->flow.verdict) >> slot % CM_NICS & 1)
		return CM_FLOW_THERE;
	inquiry->found = inquiry->place ? FOUND_FLOW : FOUND_NOTHING;
	if (is_there && let_pass_elsewhere(&inquiry->flow, slot)) {
		if (inquiry->flow.masqueraded)
			return CM_FLOW_THERE;
		if (!ct_join(&inquiry->flow, slot))
			return CM_FLOW_NO_ROOM;
		inquiry->flow.verdict = (__u32)inquiry->flow.verdict;
	} else {
		inquiry->flow = edit->flow;
		inquiry->expires = edit->expires;
	}
	inquiry->class = ct_class(&inquiry->flow);
#pragma clang loop unroll(disable)
	for (int i = 0; i < FLOW_TRIES && put != FLOW_PUT; i++)
		put = edit_put(edit, inquiry);
	return put == FLOW_PUT ? CM_FLOW_DONE : CM_FLOW_NO_ROOM;
}

/* Takes the slot of a NIC that is gone out of what a flow has passed. */
static __always_inline enum cm_flow_edited edit_leave(const struct cm_flow_edit *edit,
						      struct inquiry *inquiry)
{
	__u32 slot = 1U << (edit->flow.rule >> CM_FLOW_NIC_SHIFT) % CM_NICS;

	if (!inquiry->place)
		return CM_FLOW_ABSENT;
	inquiry->flow.verdict = ct_within(inquiry->flow.verdict, 0xffff & ~slot);
	ct_forget_rule(&inquiry->flow, edit->flow.rule >> CM_FLOW_NIC_SHIFT);
	if (!ct_passed(inquiry->flow.verdict))
		return edit_delete(edit);
	inquiry->class = ct_class(&inquiry->flow);
	if (edit->family == CM_IPV4) {
		struct cm_ct4_key key FLOW_KEY;

		flow4_key_of(&key, edit);
		ct4_put(&key, inquiry);
	} else {
		ct6_put(&edit->key, inquiry);
	}
	return CM_FLOW_DONE;
}

/* Whether there was anything to do. */
__noinline int edit_flow(struct __sk_buff *skb, __u32 index)
{
	__u32 offset = CM_FLOW_EDITS_OFFSET + index * sizeof(struct cm_flow_edit);
	struct cm_flow_edit edit FLOW_KEY;
	struct inquiry inquiry = {};

	if (bpf_skb_load_bytes(skb, offset, &edit, sizeof(edit)) || !edit.kind)
		return 0;
	if (edit.kind == CM_FLOW_EDIT_DELETE) {
		edit.edited = edit_delete(&edit);
	} else {
		inquiry.place = edit_take(&edit, &inquiry);
		if (edit.kind == CM_FLOW_EDIT_ADD) {
			edit.edited = edit_add(&edit, &inquiry);
		} else if (edit.kind == CM_FLOW_EDIT_LEAVE) {
			edit.edited = edit_leave(&edit, &inquiry);
		} else {
			edit.edited = inquiry.place ? CM_FLOW_THERE : CM_FLOW_ABSENT;
			edit.flow = inquiry.flow;
			edit.expires = inquiry.expires;
		}
	}
	return !bpf_skb_store_bytes(skb, offset, &edit, sizeof(edit), 0);
}

#endif
