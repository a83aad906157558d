/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The way of one packet, for `cilmark explain`: a private copy of the programs (config.explain) writes
 * it into a map that nobody else has. From programs that are attached fold.rs removes it.
 */
#ifndef CILMARK_EXPLAIN_H
#define CILMARK_EXPLAIN_H

#include "abi/config.h"
#include "abi/explain.h"
#include <bpf/bpf_helpers.h>
#include "config.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cm_explanation);
} cm_steps SEC(".maps");

/* Never written: enums that stand in values reach the object's BTF only through a variable. */
struct cm_step_enums step_enums_layout;

static __always_inline struct cm_explanation *explanation(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&cm_steps, &key);
}

static __always_inline int step_opens(enum cm_call call)
{
	return call == CM_CALL_POLICY_VERDICT || call == CM_CALL_POLICY_CHECK ||
	       call == CM_CALL_TRACE || call == CM_CALL_TO_CONTAINER;
}

static __always_inline int step_closes(enum cm_call call)
{
	return call == CM_CALL_POLICY_LOOKUP || call == CM_CALL_FINISH_VERDICT ||
	       call == CM_CALL_KEEP_MASQUERADED;
}

/* A global function, so that each step is but a call; and guarded, since attached programs lack the map. */
__noinline int write_step(enum cm_call call, const struct cm_address *address, __u64 a, __u64 b,
			  __u64 c)
{
	struct cm_explanation *told = config.explain ? explanation() : NULL;
	struct cm_step *step;

	if (!told || told->count >= CM_MAX_STEPS)
		return 0;
	/* A tail call: nothing that was open returns. */
	if (call == CM_CALL_TO_CONTAINER)
		told->open = 0;
	step = &told->steps[told->count++];
	step->call = call;
	step->depth = told->open + 1;
	step->values[0] = a;
	step->values[1] = b;
	step->values[2] = c;
	if (address)
		step->address = *address;
	if (step_opens(call))
		told->open++;
	else if (step_closes(call))
		told->open--;
	return 0;
}

/* Tells of a call; what the values are stands at enum cm_call. */
static __always_inline void step(enum cm_call call, const struct cm_address *address, __u64 a,
				 __u64 b, __u64 c)
{
	if (config.explain)
		write_step(call, address, a, b, c);
}

#endif
