/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the benchmark puts around the datapath's programs, so that no two packets in a row have the
 * same keys, and beside them, to compare with: programs that only look a key up.
 *
 * An address follows from its number by arithmetic: a table of them would cost more than what is
 * measured. packet/keys.rs does the same sums.
 */
#include "abi/config.h"
#include "abi/maps.h"

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) value *name

enum {
	PACKET_BROKEN = 100, /* what no program of the datapath returns */
	NOT_REACHED = 101,
};

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*tail_call)(void *skb, void *programs, __u32 index) = (void *)12;

/* Of one case; in the order in which packet/vary.rs writes them. */
const volatile struct {
	__u32 keys; /* how many numbers there are */
	__u32 in_order; /* one number after the other, instead of any */
	__u32 is_ipv6;
	__u32 address_at; /* offset of the address that varies: the remote one */
	__u32 local_at; /* offset of the other */
	__u32 ports_at;
	__u32 new_flows; /* another source port each time */
	__u32 rules; /* the destination port belongs to one of so many by the number; 0: it stays */
	__u32 first_port;
} vary;

/* How many packets there were. */
__u32 turns;

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} programs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct cm_address);
	__type(value, struct cm_ipcache_entry);
} hosts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct cm_prefix);
	__type(value, struct cm_ipcache_entry);
} prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct cm_ct4_key);
	__type(value, struct cm_flow);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct cm_ct6_key);
	__type(value, struct cm_flow);
} flows6 SEC(".maps");

/* One to one, and as good as random: the end of MurmurHash3. */
static __always_inline __u32 mix(__u32 number)
{
	number = (number ^ number >> 16) * 0x85ebca6b;
	number = (number ^ number >> 13) * 0xc2b2ae35;
	return number ^ number >> 16;
}

static __always_inline void *header_at(struct __sk_buff *skb, __u32 offset, __u32 size)
{
	void *header = (void *)(long)skb->data + offset;

	return header + size <= (void *)(long)skb->data_end ? header : (void *)0;
}

/* The first word of an IPv6 address stays. */
static __always_inline int set_address(struct __sk_buff *skb, __u32 number)
{
	__be32 *words = header_at(skb, vary.address_at, vary.is_ipv6 ? 16 : 4);

	if (!words)
		return 0;
	if (!vary.is_ipv6) {
		words[0] = mix(number + 1);
		return 1;
	}
	words[1] = mix(number + 1);
	words[2] = mix(~number);
	words[3] = number;
	return 1;
}

static __always_inline int set_ports(struct __sk_buff *skb, __u32 turn, __u32 number)
{
	__be16 *ports = header_at(skb, vary.ports_at, 4);
	__u16 port;

	if (!ports)
		return 0;
	ports[0] = turn;
	if (vary.rules) {
		port = vary.first_port + number % vary.rules;
		ports[1] =
			__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap16(port) : port;
	}
	return 1;
}

/* Makes the next packet out of the one before, and hands it on. */
SEC("tc")
int vary_packet(struct __sk_buff *skb)
{
	__u32 turn = turns++;
	__u32 number = vary.in_order ? turn : (__u64)mix(turn) * vary.keys >> 32;

	if (!set_address(skb, number) || (vary.new_flows && !set_ports(skb, turn, number)))
		return PACKET_BROKEN;
	/* As from a wire: what the turn before has stamped, with its proof, would spare the lookup. */
	skb->mark = 0;
	skb->tc_index = 0;
	tail_call(skb, &programs, 0);
	return NOT_REACHED;
}

static __always_inline int get_address(struct __sk_buff *skb, struct cm_address *address)
{
	__be32 *words = header_at(skb, vary.address_at, vary.is_ipv6 ? 16 : 4);

	if (!words)
		return 0;
	*address = (struct cm_address){ .family = vary.is_ipv6 ? CM_IPV6 : CM_IPV4 };
	__builtin_memcpy(address->bytes, words, 4);
	if (vary.is_ipv6)
		__builtin_memcpy(address->bytes + 4, words + 1, 12);
	return 1;
}

SEC("tc")
int bare_host(struct __sk_buff *skb)
{
	struct cm_address address;

	if (!get_address(skb, &address))
		return PACKET_BROKEN;
	return map_lookup(&hosts, &address) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

SEC("tc")
int bare_prefix(struct __sk_buff *skb)
{
	struct cm_prefix prefix = { .prefixlen = 8 * sizeof(prefix.address) };

	if (!get_address(skb, &prefix.address))
		return PACKET_BROKEN;
	return map_lookup(&prefixes, &prefix) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

static __always_inline int get_flow4(struct __sk_buff *skb, struct cm_ct4_key *key)
{
	__be32 *local = header_at(skb, vary.local_at, 4);
	__be32 *remote = header_at(skb, vary.address_at, 4);
	__be16 *ports = header_at(skb, vary.ports_at, 4);

	if (!local || !remote || !ports)
		return 0;
	*key = (struct cm_ct4_key){
		.local = *local,
		.remote = *remote,
		.local_port = ports[0],
		.remote_port = ports[1],
		.protocol = IPPROTO_TCP,
	};
	return 1;
}

static __always_inline int get_flow6(struct __sk_buff *skb, struct cm_ct6_key *key)
{
	__be32 *local = header_at(skb, vary.local_at, 16);
	__be32 *remote = header_at(skb, vary.address_at, 16);
	__be16 *ports = header_at(skb, vary.ports_at, 4);

	if (!local || !remote || !ports)
		return 0;
	*key = (struct cm_ct6_key){
		.local_port = ports[0],
		.remote_port = ports[1],
		.protocol = IPPROTO_TCP,
	};
	__builtin_memcpy(&key->local, local, sizeof(key->local));
	__builtin_memcpy(&key->remote, remote, sizeof(key->remote));
	return 1;
}

SEC("tc")
int bare_flow4(struct __sk_buff *skb)
{
	struct cm_ct4_key key;

	if (!get_flow4(skb, &key))
		return PACKET_BROKEN;
	return map_lookup(&flows4, &key) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

SEC("tc")
int bare_flow6(struct __sk_buff *skb)
{
	struct cm_ct6_key key;

	if (!get_flow6(skb, &key))
		return PACKET_BROKEN;
	return map_lookup(&flows6, &key) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

SEC("tc")
int bare_new_flow4(struct __sk_buff *skb)
{
	struct cm_flow entry = {};
	struct cm_ct4_key key;

	if (!get_flow4(skb, &key))
		return PACKET_BROKEN;
	return map_update(&flows4, &key, &entry, BPF_ANY) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

SEC("tc")
int bare_new_flow6(struct __sk_buff *skb)
{
	struct cm_flow entry = {};
	struct cm_ct6_key key;

	if (!get_flow6(skb, &key))
		return PACKET_BROKEN;
	return map_update(&flows6, &key, &entry, BPF_ANY) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
