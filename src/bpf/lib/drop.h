/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The one door by which dropped packets leave. */
#ifndef CILMARK_DROP_H
#define CILMARK_DROP_H

#include "abi.h"
#include "events.h"
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

#endif
