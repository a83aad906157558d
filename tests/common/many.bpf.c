/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Many packets of one: writes the next number into an address, and hands the packet to a program under test. */
#include "vmlinux.h"

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]

enum {
	PROG_ARRAY = 3,
	PACKET_BROKEN = 100, /* what no program of the datapath returns */
	NOT_REACHED = 101,
};

static long (*tail_call)(void *skb, void *programs, __u32 index) = (void *)12;

/* In the order in which many.rs writes them. */
const volatile struct {
	__u32 at; /* offset of the three bytes that take the number */
	__u32 first;
	__u32 step; /* from one number to the next */
	__u32 count; /* of numbers; then they begin again */
	__u32 each; /* packets of one number in a row */
} numbers;

/* How many packets there were. */
__u32 turns;

struct {
	__uint(type, PROG_ARRAY);
	__uint(max_entries, 1);
	__u32 *key;
	__u32 *value;
} programs SEC(".maps");

SEC("tc")
int many(struct __sk_buff *skb)
{
	__u32 number = numbers.first + turns++ / numbers.each % numbers.count * numbers.step;
	__u8 *bytes = (void *)(long)skb->data + numbers.at;

	if ((void *)(bytes + 3) > (void *)(long)skb->data_end)
		return PACKET_BROKEN;
	bytes[0] = number;
	bytes[1] = number >> 8;
	bytes[2] = number >> 16;
	tail_call(skb, &programs, 0);
	return NOT_REACHED;
}
