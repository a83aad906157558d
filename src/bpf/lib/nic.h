/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The NICs of a root that have a policy: each judges the flows that have passed another one by that one's. */
#ifndef CILMARK_NIC_H
#define CILMARK_NIC_H

#include "abi/config.h"
#include "abi/maps.h"
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

/* Never NULL, but the verifier does not know. */
static __always_inline const volatile struct cm_nics *all_nics(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&cm_nics, &key);
}

/* The NIC of a slot. */
static __always_inline const volatile struct cm_nic *nic_of(__u32 slot)
{
	const volatile struct cm_nics *all = all_nics();

	if (!all)
		return NULL;
	/* Linux 6.1 adds no offset to what may be NULL, and clang does before the test. */
	barrier_var(all);
	return &all->nics[slot % CM_NICS];
}

/* Whether a slot is this NIC's: a constant for a workload, which has but one policy. */
static __always_inline int is_own_nic(__u32 slot)
{
	return config.role != CM_ROLE_NETDEV || slot == config.nic_slot;
}

/* What a confirmation that is over its time falls back to. */
static __always_inline enum cm_fallback fallback_of(const volatile struct cm_confirm *pending)
{
	enum cm_fallback wanted = pending->fallback;

	return wanted && bpf_ktime_get_coarse_ns() >= pending->until_ns ? wanted : CM_FALLBACK_NONE;
}

/*
 * What the policy of the NIC of a slot, or a workload's, has not had confirmed and is over its time, and so counts instead
 * of what was asked for.
 */
static __always_inline enum cm_fallback nic_fallback(__u32 slot)
{
	const volatile struct cm_nic *nic;

	if (config.role != CM_ROLE_NETDEV)
		return fallback_of(&confirm);
	nic = nic_of(slot);
	return nic ? fallback_of(&nic->confirm) : CM_FALLBACK_NONE;
}

static __always_inline enum cm_fallback fallback(void)
{
	return nic_fallback(config.nic_slot);
}

/*
 * How many NICs have fallen back: with each that does, what all of them have said about flows is stale. A global function,
 * since it hardly ever runs.
 */
__noinline int count_fallbacks(void)
{
	const volatile struct cm_nics *all = all_nics();
	__u64 now = bpf_ktime_get_coarse_ns();
	__u32 count = 0;

	if (config.role != CM_ROLE_NETDEV || !all)
		return 0;
	barrier_var(all);
#pragma clang loop unroll(disable)
	for (__u32 slot = 0; slot < CM_NICS; slot++) {
		__u64 over = now - all->nics[slot].confirm.until_ns;
		__u64 waits = -(__u64)all->nics[slot].confirm.fallback;

		/* Without branches, or the verifier walks on with each. */
		barrier_var(waits);
		count += (~over & waits) >> 63;
	}
	return count;
}

static __always_inline __u32 nics_fallen_back(void)
{
	const volatile struct cm_nics *all = all_nics();

	/* Expected for the verifier, which then walks that way first, and sees that the other one differs in nothing. */
	return __builtin_expect(all && all->clocks, 1) ? count_fallbacks() : 0;
}

/* The mask is for the verifier: a direction may come out of a map. */
static __always_inline enum cm_policy_mode nic_mode(__u32 slot, enum cm_direction direction)
{
	const volatile struct cm_nic *nic;

	if (is_own_nic(slot))
		return config.policy[direction & 1];
	nic = nic_of(slot);
	return nic ? nic->policy[direction & 1] : CM_POLICY_OFF;
}

#endif
