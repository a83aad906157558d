/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The one door by which dropped packets leave. */
#ifndef CILMARK_DROP_H
#define CILMARK_DROP_H

#include "abi/events.h"
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "events.h"
#include "host.h"
#include "metrics.h"
#include "packet.h"

/*
 * `verdict` is a negative reason. A global function, because each program calls it in several
 * places and none of them is the fast path.
 */
__noinline int drop(struct __sk_buff *skb, const struct packet *pkt, int verdict)
{
	if (!pkt || verdict >= 0)
		return TC_ACT_SHOT;
	count_packet(skb, pkt, -verdict);
	send_event(skb, pkt, CM_EVENT_DROP, -verdict);
	return TC_ACT_SHOT;
}

/*
 * Lets others on a link have a frame for many, and not this host: as another host's frame a bridge hands it on, and the
 * host's own stack discards it (ip_rcv() in the kernel). 0, or the negative reason to drop it.
 */
static __always_inline int hide_from_host(struct __sk_buff *skb)
{
	return bpf_skb_change_type(skb, PACKET_OTHERHOST) ? -CM_DROP_WRITE_ERROR : 0;
}

/* Of what a NIC has received. The guests behind a bridge want a frame for many, too. */
static __always_inline int drop_received(struct __sk_buff *skb, const struct packet *pkt,
					 int verdict)
{
	int action = drop(skb, pkt, verdict);

	if (!config.bridge_port || verdict == -CM_DROP_INVALID_SOURCE || !is_for_many(skb) ||
	    hide_from_host(skb))
		return action;
	return TC_ACT_UNSPEC;
}

#endif
