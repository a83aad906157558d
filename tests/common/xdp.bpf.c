/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* XDP programs of another tool: they pass all packets. One has sockets of AF_XDP in a map. */
#include "vmlinux.h"

#define SEC(name) __attribute__((section(name), used))

enum { XSKMAP = 17, PASS = 2 };

static void *(*map_lookup)(void *map, const void *key) = (void *)1;

struct {
	int (*type)[XSKMAP];
	int (*max_entries)[1];
	int (*key_size)[sizeof(__u32)];
	int (*value_size)[sizeof(__u32)];
} sockets SEC(".maps");

SEC("xdp")
int passes(void *context)
{
	return PASS;
}

SEC("xdp")
int to_sockets(void *context)
{
	__u32 queue = 0;

	return map_lookup(&sockets, &queue) ? PASS : PASS;
}
