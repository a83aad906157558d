/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The addresses that are attached on this host, and what is theirs alone to send. */
#ifndef CILMARK_ENDPOINT_H
#define CILMARK_ENDPOINT_H

#include "abi/config.h"
#include "abi/maps.h"
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "packet.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 14);
	__type(key, struct cm_address);
	__type(value, struct cm_endpoint);
} cm_endpoints SEC(".maps");

/* Who is attached with an address in this network namespace, or NULL. */
static __always_inline const struct cm_endpoint *endpoint_here(const struct cm_address *address)
{
	struct cm_address key = *address; /* on the stack, for Linux 6.1: see ipcache_lookup() */
	const struct cm_endpoint *endpoint = bpf_map_lookup_elem(&cm_endpoints, &key);

	return endpoint && endpoint->netns == config.netns ? endpoint : NULL;
}

/* A workload of this host and this network namespace. */
static __always_inline int is_local_workload(const struct cm_address *address)
{
	const struct cm_endpoint *endpoint = endpoint_here(address);

	return endpoint && endpoint->role == CM_ROLE_CONTAINER;
}

/* A global function, for the stack of its callers. */
__noinline int is_attached_here(const struct cm_address *address)
{
	return address && endpoint_here(address);
}

/* The sixteen bytes of two addresses of one family. */
static __always_inline int words_equal(const __be32 *a, const volatile __be32 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]));
}

static __always_inline const __be32 *address_words(const struct cm_address *address)
{
	return (const __be32 *)address->bytes;
}

static __always_inline __u32 xor_of_words(const struct cm_address *address)
{
	const __be32 *words = address_words(address);

	return words[0] ^ words[1] ^ words[2] ^ words[3];
}

static __always_inline int has_addresses(void)
{
	return config.ipv4_count || config.ipv6_count;
}

/* Unrolled, so that of each address in the configuration one comparison with numbers is left. */
static __always_inline int is_configured(const struct cm_address *address, __u32 ipv4_count,
					 __u32 ipv6_count)
{
	const __be32 *words = address_words(address);

	if (address->family == CM_IPV4) {
#pragma clang loop unroll(full)
		for (__u32 i = 0; i < CM_MAX_ADDRESSES; i++)
			if (i < ipv4_count && words[0] == config.ipv4[i])
				return 1;
		return 0;
	}
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < CM_MAX_ADDRESSES; i++)
		if (i < ipv6_count && words_equal(words, config.ipv6[i].words))
			return 1;
	return 0;
}

static __always_inline int is_own_address(const struct cm_address *address)
{
	return is_configured(address, config.ipv4_count, config.ipv6_count);
}

static __always_inline int is_unspecified(const struct cm_address *address)
{
	const __be32 *words = address_words(address);

	return !(words[0] | words[1] | words[2] | words[3]);
}

static __always_inline int is_link_local(const struct cm_address *address)
{
	return address->family == CM_IPV6 && address->bytes[0] == 0xfe &&
	       (address->bytes[1] & 0xc0) == 0x80;
}

#endif
