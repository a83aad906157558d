/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Whose a flow is: a part of each key under which anything is kept of one. */
#ifndef CILMARK_SCOPE_H
#define CILMARK_SCOPE_H

#include "abi/maps.h"
#include <bpf/bpf_helpers.h>
#include "config.h"

/* User space alone reads and writes it: programs have what they need of it in their configuration. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cm_flow_table);
} cm_flow_table SEC(".maps");

/* One workload's permission is not its neighbour's; all NICs share one, for asymmetric routes. */
static __always_inline __u32 ct_scope(void)
{
	return config.scope;
}

/* As keys have it, in two fields. */
static __always_inline __u16 ct_scope_low(void)
{
	return ct_scope();
}

static __always_inline __u8 ct_scope_high(void)
{
	return ct_scope() >> 16;
}

#endif
