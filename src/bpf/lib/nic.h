/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The NICs of a root that have a policy: each judges the flows that have passed another one by that one's. */
#ifndef CILMARK_NIC_H
#define CILMARK_NIC_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include "config.h"

/* A single value, so that commands can write its words in place. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cm_nics);
} cm_nics SEC(".maps");

/* The NIC of a slot; never NULL, but the verifier does not know. */
static __always_inline const volatile struct cm_nic *nic_of(__u32 slot)
{
	__u32 key = 0;
	const volatile struct cm_nics *all = bpf_map_lookup_elem(&cm_nics, &key);

	if (!all)
		return NULL;
	/* Linux 6.1 adds no offset to what may be NULL, and clang does before the test. */
	asm volatile("" : "+r"(all));
	return &all->nics[slot % CM_NICS];
}

/* What a confirmation that is over its time falls back to. */
static __always_inline enum cm_fallback fallback_of(const volatile struct cm_confirm *pending)
{
	enum cm_fallback wanted = pending->fallback;

	return wanted && bpf_ktime_get_coarse_ns() >= pending->until_ns ? wanted : CM_FALLBACK_NONE;
}

static __always_inline enum cm_fallback nic_fallback(__u32 slot)
{
	const volatile struct cm_nic *nic = nic_of(slot);

	return nic ? fallback_of(&nic->confirm) : CM_FALLBACK_NONE;
}

/* What is not confirmed and over its time, and so counts instead of what was asked for. */
static __always_inline enum cm_fallback fallback(void)
{
	return config.role == CM_ROLE_NETDEV ? nic_fallback(config.nic_slot) :
					       fallback_of(&confirm);
}

#endif
