/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Another tool's program on the same hook: it counts packets by their mark and lets them pass. */
#include "vmlinux.h"

#define SEC(name) __attribute__((section(name), used))

enum { HASH = 1, ENTRIES = 4096, PASS = -1 };

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;

struct {
	int (*type)[HASH];
	int (*max_entries)[ENTRIES];
	__u32 *key;
	__u64 *value;
} marks SEC(".maps");

SEC("tc")
int third_party(struct __sk_buff *skb)
{
	__u32 mark = skb->mark;
	__u64 one = 1, *count = map_lookup(&marks, &mark);

	if (count)
		__sync_fetch_and_add(count, 1);
	else
		map_update(&marks, &mark, &one, 0);
	return PASS;
}

/* The name of one that Cilium's agent puts on a NIC (bpf/bpf_host.c). */
SEC("tc")
int cil_from_netdev(struct __sk_buff *skb)
{
	return PASS;
}
