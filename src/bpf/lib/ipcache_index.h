/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The prefixes of a large ipcache once more, as a search tree that user space builds with a load: a kernel
 * trie takes a cache miss a bit, this one about two. The trie stays the record. A single change writes only to
 * values of leaves, each of which is one word.
 */
#ifndef CILMARK_IPCACHE_INDEX_H
#define CILMARK_IPCACHE_INDEX_H

#include "abi/config.h"
#include "abi/maps.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "endpoint.h"

/*
 * Mapped to be written, which also puts its nodes at a page's beginning, and so on cache lines. Without
 * types, which the arrays that are put into the slots have not, either: to Linux 6.1 a map with BTF is another
 * kind (bpf_map_meta_equal compares the offset of a timer, which is absent in two ways).
 */
struct cm_index {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct cm_index_node));
};

/* Never written: the type of an inner map reaches the object's BTF only through a variable. */
struct cm_index_node index_node_layout;

/* A slot is empty where the trie has few prefixes, and while many change. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, CM_INDEX_SLOTS);
	__type(key, __u32);
	__array(values, struct cm_index);
} cm_ipcache_idx SEC(".maps");

/* Without a branch: where the next line lies is anybody's guess, and the verifier walks one way only. */
static __always_inline const struct cm_index_line *index_step(const struct cm_index_line *line,
							      __u64 address, int width)
{
	return line + ((address + line[width].bound) >> 63) * width;
}

/*
 * What the index in a slot knows of an address of 63 bits: the value of a leaf.
 * A global function, which the verifier walks once whatever its callers know of the address (180
 * instructions; inline three times as many).
 */
__noinline __u64 index_search(__u32 slot, __u64 address)
{
	__u32 number = 0;
	const struct cm_index_line *line = NULL;
	void *index = bpf_map_lookup_elem(&cm_ipcache_idx, &slot);

	if (!index)
		return 0;
#pragma unroll
	for (int level = 0; level < CM_INDEX_LEVELS; level++) {
		line = bpf_map_lookup_elem(index, &number);
		if (!line)
			return 0;
		line = index_step(line, address, 8);
		line = index_step(line, address, 4);
		line = index_step(line, address, 2);
		line = index_step(line, address, 1);
		number = line->value;
	}
	return line->value;
}

static __always_inline __u64 index_lookup(const struct cm_address *address)
{
	const __be32 *words = address_words(address);
	__u64 upper = (__u64)bpf_ntohl(words[0]) << 32 | bpf_ntohl(words[1]);

	if (address->family == CM_IPV4)
		return index_search(CM_INDEX_IPV4, upper >> 32);
	return index_search(CM_INDEX_IPV6_LOW + (upper >> 63), upper << 1 >> 1);
}

#endif
