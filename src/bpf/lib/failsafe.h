/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Ports of a NIC that no policy closes, so that nobody locks himself out. */
#ifndef CILMARK_FAILSAFE_H
#define CILMARK_FAILSAFE_H

#include "abi/config.h"
#include "abi/maps.h"
#include "config.h"
#include "nic.h"
#include "packet.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ &&
		       __builtin_offsetof(struct cm_failsafe, protocol) == 0 &&
		       __builtin_offsetof(struct cm_failsafe, port) == 2,
	       "a protocol below a port in a word");

static __always_inline __u32 failsafe_word(const volatile struct cm_failsafe *port)
{
	return *(const volatile __u32 *)port;
}

/* Unrolled, so that of each port in the configuration one comparison with a number is left. */
static __always_inline int failsafe_has(const volatile struct cm_failsafe *ports, __u32 count,
					__u8 protocol, __be16 port)
{
	__u32 wanted = (__u32)port << 16 | protocol;

#pragma clang loop unroll(full)
	for (__u32 i = 0; i < CM_MAX_FAILSAFE; i++)
		if (i < count && failsafe_word(&ports[i]) == wanted)
			return 1;
	return 0;
}

/* Whether a flow of this direction is one to a failsafe port of another NIC. */
static __always_inline int nic_is_failsafe(__u32 slot, enum cm_direction direction, __u8 protocol,
					   __be16 port)
{
	const volatile struct cm_nic *nic = nic_of(slot);
	__u32 wanted = (__u32)port << 16 | protocol;
	__u32 count;

	if (!nic)
		return 0;
	count = nic->failsafe_count[direction & 1];
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < CM_MAX_FAILSAFE && i < count; i++)
		if (failsafe_word(&nic->failsafe[direction & 1][i]) == wanted)
			return 1;
	return 0;
}

/* Whether a flow of this direction is one to a failsafe port. */
static __always_inline int is_failsafe(enum cm_direction direction, __u8 protocol, __be16 port)
{
	if (direction == CM_EGRESS)
		return failsafe_has(config.failsafe_egress, config.failsafe_count[CM_EGRESS],
				    protocol, port);
	return failsafe_has(config.failsafe_ingress, config.failsafe_count[CM_INGRESS], protocol,
			    port);
}

/*
 * Whether a packet is an answer from one. It needs no entry of conntrack, which may be full; and so no
 * connection may begin there.
 */
static __always_inline int is_failsafe_answer(const struct packet *pkt)
{
	return packet_direction(pkt) == CM_EGRESS && pkt->l4_protocol == IPPROTO_TCP &&
	       (pkt->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN &&
	       failsafe_has(config.failsafe_ingress, config.failsafe_count[CM_INGRESS],
			    pkt->l4_protocol, pkt->sport);
}

#endif
