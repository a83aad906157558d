/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Address to identity: the longest prefix wins. Almost all real entries are hosts, so these live in
 * a hash map in front of the trie, whose lookups cost several times as much.
 */
#ifndef CILMARK_IPCACHE_H
#define CILMARK_IPCACHE_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include "explain.h"
#include "identity.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 16);
	__type(key, struct cm_address);
	__type(value, struct cm_ipcache_entry);
} cm_ipcache SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 16);
	__type(key, struct cm_prefix);
	__type(value, struct cm_ipcache_entry);
} cm_ipcache_cidr SEC(".maps");

static __always_inline const struct cm_ipcache_entry *
ipcache_lookup(const struct cm_address *address)
{
	/* On the stack: on Linux 6.1 a key may not lie in what a global function was called with. */
	struct cm_prefix prefix = {
		.prefixlen = 8 * sizeof(*address),
		.address = *address,
	};
	const struct cm_ipcache_entry *entry = bpf_map_lookup_elem(&cm_ipcache, &prefix.address);
	enum cm_ipcache_source from = CM_IPCACHE_HOSTS;

	if (!entry) {
		/* It compares no further than its own entries, whose bytes 4.. of IPv4 are zero. */
		entry = bpf_map_lookup_elem(&cm_ipcache_cidr, &prefix);
		from = entry ? CM_IPCACHE_PREFIXES : CM_IPCACHE_NOWHERE;
	}
	step(CM_CALL_IPCACHE_LOOKUP, address, entry ? entry->identity : IDENTITY_WORLD, from,
	     entry && entry->is_host);
	return entry;
}

/* A global function for its callers, which are off the fast path. */
__noinline __u32 ipcache_identity(const struct cm_address *address)
{
	const struct cm_ipcache_entry *entry = address ? ipcache_lookup(address) : NULL;

	return entry ? entry->identity : IDENTITY_WORLD;
}

#endif
