/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What user space does with single flows: it has no lock of a bucket, and so runs a program that takes it
 * (BPF_PROG_TEST_RUN), with what is to be done in the packet, where it finds what has come of it.
 */
#ifndef CILMARK_FLOW_EDIT_H
#define CILMARK_FLOW_EDIT_H

#include "abi/config.h"
#include "abi/maps.h"
#include <bpf/bpf_helpers.h>
#include "conntrack.h"
#include "flow_table.h"
#include "policy_ctx.h"

/* Never written: what is in no map reaches the object's BTF only through a variable. */
struct cm_flow_edit flow_edit_layout;

/* Global functions, which the verifier walks once each. What a flow is found by, and whether it is of IPv6. */
__noinline int edit_key(const struct cm_flow_edit *edit, union flow_key *key)
{
	int is_v6;

	if (!edit || !key)
		return 0;
	is_v6 = edit->family == CM_IPV6;
	if (is_v6) {
		key->v6 = edit->key;
	} else {
		key->v4 = (struct cm_ct4_key){
			.local = edit->key.local.words[0],
			.remote = edit->key.remote.words[0],
			.local_port = edit->key.local_port,
			.remote_port = edit->key.remote_port,
			.scope = edit->key.scope,
			.scope_high = edit->key.scope_high,
			.protocol = edit->key.protocol,
		};
		ct4_fill(key);
	}
	return is_v6;
}

static __always_inline enum cm_flow_edited edit_delete(const union flow_key *key, int is_v6,
						       struct policy_ctx *ctx)
{
	int removed;

	ct_locate(key, is_v6, &ctx->where);
	removed = ct_visit(key, is_v6, &ctx->where, FLOW_REMOVE, NULL);
	removed |= ct_visit(key, is_v6, &ctx->where, FLOW_REMOVE | FLOW_IN_SECOND, NULL);
	return removed ? CM_FLOW_DONE : CM_FLOW_ABSENT;
}

/* Which NICs but the one of a slot have let a flow pass. */
static __always_inline __u32 let_pass_elsewhere(const struct cm_flow *flow, __u32 slot)
{
	return ct_passed(flow->verdict) & ~ct_denied(flow->verdict) & ~(1U << slot % CM_NICS);
}

static __always_inline enum cm_flow_edited edit_add(const struct cm_flow_edit *edit,
						    const union flow_key *key, int is_v6,
						    struct policy_ctx *ctx)
{
	__u32 slot = edit->flow.rule >> CM_FLOW_NIC_SHIFT;
	int put = FLOW_FULL, is_there;

	is_there = ctx->place && ct_is_alive(ctx->expires);
	if (is_there && !(ct_denied(ctx->flow.verdict) & 1U << slot % CM_NICS) &&
	    ct_passed(ctx->flow.verdict) >> slot % CM_NICS & 1)
		return CM_FLOW_THERE;
	ctx->ct = ctx->place ? CT_KNOWN : CT_MISS;
	if (is_there && let_pass_elsewhere(&ctx->flow, slot)) {
		if (ctx->flow.masqueraded)
			return CM_FLOW_THERE;
		if (!ct_join(&ctx->flow, slot))
			return CM_FLOW_NO_ROOM;
		ctx->flow.verdict = (__u32)ctx->flow.verdict;
	} else {
		ctx->flow = edit->flow;
		ctx->expires = edit->expires;
	}
	ctx->class = ct_class(&ctx->flow);
#pragma clang loop unroll(disable)
	for (int i = 0; i < FLOW_TRIES && put != FLOW_PUT; i++)
		put = ct_put(key, is_v6, ctx);
	return put == FLOW_PUT ? CM_FLOW_DONE : CM_FLOW_NO_ROOM;
}

/* Takes the slot of a NIC that is gone out of what a flow has passed. */
static __always_inline enum cm_flow_edited edit_leave(const struct cm_flow_edit *edit,
						      const union flow_key *key, int is_v6,
						      struct policy_ctx *ctx)
{
	__u32 slot = 1U << (edit->flow.rule >> CM_FLOW_NIC_SHIFT) % CM_NICS;

	if (!ctx->place)
		return CM_FLOW_ABSENT;
	ctx->flow.verdict = ct_within(ctx->flow.verdict, 0xffff & ~slot);
	ct_forget_rule(&ctx->flow, edit->flow.rule >> CM_FLOW_NIC_SHIFT);
	if (!ct_passed(ctx->flow.verdict))
		return edit_delete(key, is_v6, ctx);
	ctx->class = ct_class(&ctx->flow);
	ct_put(key, is_v6, ctx);
	return CM_FLOW_DONE;
}

/* Whether there was anything to do. */
__noinline int edit_flow(struct __sk_buff *skb, __u32 index)
{
	__u32 offset = CM_FLOW_EDITS_OFFSET + index * sizeof(struct cm_flow_edit);
	struct cm_flow_edit edit __attribute__((aligned(8)));
	struct policy_ctx ctx = {};
	union flow_key key = {};
	int is_v6;

	if (bpf_skb_load_bytes(skb, offset, &edit, sizeof(edit)) || !edit.kind)
		return 0;
	is_v6 = edit_key(&edit, &key);
	if (edit.kind == CM_FLOW_EDIT_DELETE) {
		edit.edited = edit_delete(&key, is_v6, &ctx);
	} else {
		ctx.place = ct_take(&key, is_v6, &ctx);
		ctx.where.scope = scope_byte(edit.key.scope_high << 16 | edit.key.scope);
		if (edit.kind == CM_FLOW_EDIT_ADD) {
			edit.edited = edit_add(&edit, &key, is_v6, &ctx);
		} else if (edit.kind == CM_FLOW_EDIT_LEAVE) {
			edit.edited = edit_leave(&edit, &key, is_v6, &ctx);
		} else {
			edit.edited = ctx.place ? CM_FLOW_THERE : CM_FLOW_ABSENT;
			edit.flow = ctx.flow;
			edit.expires = ctx.expires;
		}
	}
	return !bpf_skb_store_bytes(skb, offset, &edit, sizeof(edit), 0);
}

#endif
