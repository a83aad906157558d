/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Address to identity: the longest prefix wins. Almost all real entries are hosts, so these live in
 * a hash map in front of the trie, whose lookups cost several times as much. Where it is large, an
 * index stands before the trie.
 */
#ifndef CILMARK_IPCACHE_H
#define CILMARK_IPCACHE_H

#include "abi/config.h"
#include "abi/explain.h"
#include "abi/maps.h"
#include <bpf/bpf_helpers.h>
#include "explain.h"
#include "identity.h"
#include "ipcache_index.h"

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

/* What the ipcache says of an address, in a word, as global functions return no more. */
struct known {
	__u32 identity; /* the world's, from nowhere */
	enum cm_ipcache_source from;
	int is_host; /* an address of this host, whatever its identity */
	int is_workloads; /* the attachment of a workload added the line, here or in another namespace */
};

static __always_inline __u64 known_word(const struct cm_ipcache_entry *entry,
					enum cm_ipcache_source from)
{
	__u64 is_workloads = entry->endpoint_id && !entry->is_host;

	return is_workloads << 41 | (__u64)entry->is_host << 40 | (__u64)from << 32 |
	       entry->identity;
}

static __always_inline __u64 prefix_lookup(const struct cm_prefix *prefix)
{
	__u64 found = index_lookup(&prefix->address);
	const struct cm_ipcache_entry *entry;

	switch (found >> 32 & 0xff) {
	case CM_INDEX_IDENTITY:
		return (__u64)CM_IPCACHE_INDEX << 32 | (__u32)found;
	case CM_INDEX_NOBODY:
		return IDENTITY_WORLD;
	}
	/* It compares no further than its own entries, whose bytes 4.. of IPv4 are zero. */
	entry = bpf_map_lookup_elem(&cm_ipcache_cidr, prefix);
	return entry ? known_word(entry, CM_IPCACHE_PREFIXES) : IDENTITY_WORLD;
}

/* A global function for its callers, which are off the fast path. */
__noinline __u64 ipcache_lookup(const struct cm_address *address)
{
	/* On the stack: on Linux 6.1 a key may not lie in what a global function was called with. */
	struct cm_prefix prefix = { .prefixlen = 8 * sizeof(*address) };
	const struct cm_ipcache_entry *entry;
	__u64 known;

	if (!address)
		return IDENTITY_WORLD;
	prefix.address = *address;
	entry = bpf_map_lookup_elem(&cm_ipcache, &prefix.address);
	known = entry ? known_word(entry, CM_IPCACHE_HOSTS) : prefix_lookup(&prefix);
	step(CM_CALL_IPCACHE_LOOKUP, address, (__u32)known, known >> 32 & 0xff, known >> 40 & 1);
	return known;
}

/* The same, without the line of the address itself. */
__noinline __u64 ipcache_lookup_prefix(const struct cm_address *address)
{
	struct cm_prefix prefix = { .prefixlen = 8 * sizeof(*address) };
	__u64 known;

	if (!address)
		return IDENTITY_WORLD;
	prefix.address = *address;
	known = prefix_lookup(&prefix);
	step(CM_CALL_IPCACHE_LOOKUP, address, (__u32)known, known >> 32 & 0xff, 0);
	return known;
}

static __always_inline int known_is_host(__u64 word)
{
	return word >> 40 & 1;
}

/* Whether it is the line of a workload's prefix, in which this host may have an address of its own. */
static __always_inline int known_is_workloads_prefix(__u64 word)
{
	return (word >> 32 & (1 << 9 | 0xff)) == (1 << 9 | CM_IPCACHE_PREFIXES);
}

static __always_inline struct known known_of(__u64 word)
{
	return (struct known){
		.identity = word,
		.from = word >> 32 & 0xff,
		.is_host = known_is_host(word),
		.is_workloads = word >> 41 & 1,
	};
}

static __always_inline struct known ipcache_known(const struct cm_address *address)
{
	return known_of(ipcache_lookup(address));
}

static __always_inline __u32 ipcache_identity(const struct cm_address *address)
{
	return ipcache_lookup(address);
}

#endif
