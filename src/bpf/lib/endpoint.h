/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The addresses that are attached on this host, and what is theirs alone to send. */
#ifndef CILMARK_ENDPOINT_H
#define CILMARK_ENDPOINT_H

#include "abi/config.h"
#include "abi/maps.h"
#include <bpf/bpf_endian.h>
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

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 14);
	__type(key, struct cm_prefix);
	__type(value, struct cm_prefix_owner);
} cm_endpoint_net SEC(".maps");

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

/* The workload that has the longest prefix around an address; NULL if no prefix has it. */
static __always_inline const struct cm_prefix_owner *prefix_owner(const struct cm_address *address)
{
	struct cm_prefix key = { .prefixlen = 8 * sizeof(*address) }; /* on the stack, as above */

	key.address = *address;
	return bpf_map_lookup_elem(&cm_endpoint_net, &key);
}

/*
 * The device of the workload of this network namespace that has the longest prefix around an address; 0 if
 * nobody here has. A global function, for the stack of its callers.
 */
__noinline __u32 prefix_device(const struct cm_address *address)
{
	const struct cm_prefix_owner *owner = address ? prefix_owner(address) : NULL;

	return owner && owner->netns == config.netns ? owner->ifindex : 0;
}

/* Whether an endpoint gets packets for this address past the stack. */
static __always_inline int takes_delivery(const struct cm_endpoint *endpoint)
{
	return endpoint->delivery == CM_DELIVERY_PEER || endpoint->delivery == CM_DELIVERY_EGRESS;
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

static __always_inline int has_prefixes(void)
{
	return config.ipv4_net_count || config.ipv6_net_count;
}

static __always_inline int has_addresses(void)
{
	return config.ipv4_count || config.ipv6_count || has_prefixes();
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

/* An address of its own that other workloads may have, too. */
static __always_inline int is_shared(const struct cm_address *address)
{
	const __be32 *words = address_words(address);

	if (address->family == CM_IPV4) {
#pragma clang loop unroll(full)
		for (__u32 i = 0; i < CM_MAX_ADDRESSES; i++)
			if (config.shared_ipv4 >> i & 1 && words[0] == config.ipv4[i])
				return 1;
		return 0;
	}
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < CM_MAX_ADDRESSES; i++)
		if (config.shared_ipv6 >> i & 1 && words_equal(words, config.ipv6[i].words))
			return 1;
	return 0;
}

/* What no host sends from, whatever prefix it lies in: loopback, and IPv4 in the words of IPv6. */
static __always_inline int is_of_no_host(const struct cm_address *address)
{
	const __be32 *words = address_words(address);

	if (address->family == CM_IPV4)
		return address->bytes[0] == 127;
	return !(words[0] | words[1]) && (!words[2] || words[2] == bpf_htonl(0xffff));
}

static __always_inline int is_in_net6(const __be32 *words, const volatile struct cm_net6 *net)
{
	const volatile __be32 *address = net->address.words, *mask = net->mask.words;

	return !(((words[0] & mask[0]) ^ address[0]) | ((words[1] & mask[1]) ^ address[1]) |
		 ((words[2] & mask[2]) ^ address[2]) | ((words[3] & mask[3]) ^ address[3]));
}

/* The length of the longest of its prefixes that has an address; 0 if none has. */
static __always_inline __u32 own_prefix_length(const struct cm_address *address)
{
	const __be32 *words = address_words(address);

	if (address->family == CM_IPV4) {
#pragma clang loop unroll(full)
		for (__u32 i = 0; i < CM_MAX_PREFIXES; i++)
			if (i < config.ipv4_net_count &&
			    (words[0] & config.ipv4_nets[i].mask) == config.ipv4_nets[i].address)
				return config.ipv4_nets[i].length;
		return 0;
	}
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < CM_MAX_PREFIXES; i++)
		if (i < config.ipv6_net_count && is_in_net6(words, &config.ipv6_nets[i]))
			return config.ipv6_nets[i].length;
	return 0;
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
