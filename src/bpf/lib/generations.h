/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Which verdicts still count. A verdict on a flow follows from its endpoint's policy and from what the
 * ipcache and the endpoints say of the flow's remote end; whoever changes one of these lets a counter
 * grow, and what was decided before is stale. What covers what stands in docs/architecture.md.
 */
#ifndef CILMARK_GENERATIONS_H
#define CILMARK_GENERATIONS_H

#include "abi/config.h"
#include "abi/maps.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "endpoint.h"

/* One element, so that one lookup finds both counters; in memory that user space adds to. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cm_generations);
} cm_generations SEC(".maps");

/*
 * Which counter an address has; src/state/generations.rs does the same sums. Link-local addresses of IPv6
 * share that of the unspecified ones, since a workload has one that nobody was told.
 */
static __always_inline __u32 remote_slot(const struct cm_address *remote)
{
	__u32 hash = address_words(remote)[0];

	/* A branch costs less than the rest of an IPv4 address, which is zeros. */
	if (remote->family == CM_IPV6)
		hash = hash == bpf_htonl(0xfe800000) ? 0 : xor_of_words(remote);
	return hash * 0x9e3779b1 >> (32 - CM_REMOTE_BITS);
}

/*
 * The sum of both counters of a flow, or of one end of a packet that has none, and that of the policy. It is odd while
 * somebody changes the policy's rules, or has died while he did: the kernel shows programs the new ones some time before
 * it returns to him.
 */
static __always_inline __u32 generation_and_policy(const struct cm_address *remote, __u32 *counter)
{
	__u16 policy = config.role == CM_ROLE_CONTAINER ? config.endpoint_id : 0;
	const volatile struct cm_generations *all;
	__u32 key = 0;

	all = bpf_map_lookup_elem(&cm_generations, &key);
	*counter = all ? all->policies[policy] : 0;
	return all ? *counter + all->remotes[remote_slot(remote)] : 0;
}

static __always_inline __u32 generation_of(const struct cm_address *remote)
{
	__u32 counter;

	return generation_and_policy(remote, &counter);
}

#endif
