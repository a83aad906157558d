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

/* Adds a step; NULL if there is no room. */
static __always_inline struct cm_step *add_step(struct cm_explanation *all, enum cm_call call,
						const struct cm_address *address)
{
	struct cm_step *step;

	if (!all || all->count >= CM_MAX_STEPS)
		return NULL;
	/* A tail call: nothing that was open returns. */
	if (call == CM_CALL_TO_CONTAINER)
		all->open = all->begun = 0;
	step = &all->steps[all->count++];
	step->call = call;
	step->depth = all->open + 1;
	if (address)
		step->address = *address;
	if (step_opens(call))
		all->open++;
	else if (step_closes(call))
		all->open--;
	return step;
}

static __always_inline void set_values(struct cm_step *step, __u64 a, __u64 b, __u64 c)
{
	step->values[0] = a;
	step->values[1] = b;
	step->values[2] = c;
}

/* These are global functions, so that each step is but a call; and guarded, since attached programs lack the map. */
__noinline int write_step(enum cm_call call, const struct cm_address *address, __u64 a, __u64 b,
			  __u64 c)
{
	struct cm_step *step = add_step(config.explain ? explanation() : NULL, call, address);

	if (step)
		set_values(step, a, b, c);
	return 0;
}

__noinline int begin_step(void)
{
	struct cm_explanation *all = config.explain ? explanation() : NULL;

	if (all)
		all->first[all->begun++ % CM_MAX_BEGUN] = all->count;
	return 0;
}

/* Ends what was begun last, with a step about the call; without a call it was none. */
__noinline int end_step(enum cm_call call, const struct cm_address *address, __u64 a, __u64 b,
			__u64 c)
{
	struct cm_explanation *all = config.explain ? explanation() : NULL;
	struct cm_step *step;
	__u32 callees;

	if (!all)
		return 0;
	callees = all->count - all->first[--all->begun % CM_MAX_BEGUN];
	step = call ? add_step(all, call, address) : NULL;
	if (!step)
		return 0;
	step->callees = callees;
	set_values(step, a, b, c);
	return 0;
}

/*
 * A call tells of itself when it has its answer, and so behind what it has called. The steps between the two belong to it.
 */
static __always_inline void step_begin(void)
{
	if (config.explain)
		begin_step();
}

static __always_inline void step_end(enum cm_call call, const struct cm_address *address, __u64 a,
				     __u64 b, __u64 c)
{
	if (config.explain)
		end_step(call, address, a, b, c);
}

/* There was no such call: the steps belong to who would have made it. */
static __always_inline void step_cancel(void)
{
	step_end(0, NULL, 0, 0, 0);
}

/* Tells of a call that makes no others; what the values are stands at enum cm_call. */
static __always_inline void step(enum cm_call call, const struct cm_address *address, __u64 a,
				 __u64 b, __u64 c)
{
	if (config.explain)
		write_step(call, address, a, b, c);
}

#endif
