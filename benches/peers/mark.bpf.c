/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What a user of tc would write to mark by source address: one lookup in a hash map of exact
 * addresses, no policy. IPv4 addresses are keys as ::ffff:0:0/96. */
#include "vmlinux.h"

#define SEC(name) __attribute__((section(name), used))

enum { HASH = 1, ENTRIES = 32768, PASS = -1 };
enum { ETHERNET = 14, IPV4 = 0x0008, IPV4_SOURCE = 12, IPV6 = 0xdd86, IPV6_SOURCE = 8 };

struct address {
	__u32 words[4];
};

static void *(*map_lookup)(void *map, const void *key) = (void *)1;

struct {
	int (*type)[HASH];
	int (*max_entries)[ENTRIES];
	struct address *key;
	__u32 *value;
} marks SEC(".maps");

SEC("tc")
int set_mark(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct address source = {};
	__u32 *mark, *found;

	if (skb->protocol == IPV4) {
		found = data + ETHERNET + IPV4_SOURCE;
		if ((void *)(found + 1) > end)
			return PASS;
		source.words[2] = 0xffff0000;
		source.words[3] = found[0];
	} else if (skb->protocol == IPV6) {
		found = data + ETHERNET + IPV6_SOURCE;
		if ((void *)(found + 4) > end)
			return PASS;
		for (int word = 0; word < 4; word++)
			source.words[word] = found[word];
	} else {
		return PASS;
	}
	mark = map_lookup(&marks, &source);
	if (mark)
		skb->mark = *mark;
	return PASS;
}
