/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The door by which packets pass; reporting them costs nothing but while somebody reads. */
#ifndef CILMARK_TRACE_H
#define CILMARK_TRACE_H

#include "abi/config.h"
#include "abi/events.h"
#include "abi/explain.h"
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "events.h"
#include "explain.h"
#include "metrics.h"
#include "packet.h"
#include "parse.h"
#include "resolve.h"

/* Both ends of a packet, as far as they concern its program. */
static __always_inline void resolve_ends(struct __sk_buff *skb, struct packet *pkt)
{
	if (packet_program(pkt) == CM_FROM_CONTAINER)
		pkt->verdict.source_identity = config.identity;
	else if (packet_program(pkt) == CM_TO_NETDEV)
		pkt->verdict.source_identity = outgoing_source_identity(skb, pkt);
	else
		pkt->verdict.source_identity =
			source_identity(&pkt->source, claimed_identity(skb, pkt));
	pkt->verdict.destination_identity = packet_program(pkt) == CM_TO_CONTAINER ?
						    config.identity :
						    ipcache_identity(&pkt->destination);
}

/*
 * Reports a packet that passes. A global function, because nobody waits for it: what it asks for is
 * asked only while somebody reads, headers that nobody else has read included.
 */
__noinline int trace(struct __sk_buff *skb, struct packet *pkt)
{
	if (!pkt)
		return 0;
	step(CM_CALL_TRACE, NULL, 0, 0, 0);
	if (!packet_has_addresses(pkt))
		parse_again(skb, pkt);
	resolve_ends(skb, pkt);
	return send_event(skb, pkt, CM_EVENT_TRACE, CM_FORWARDED);
}

/* The way out of a packet that passes; other programs on the hook still run. */
static __always_inline int accept(struct __sk_buff *skb, struct packet *pkt)
{
	if (tracing())
		trace(skb, pkt);
	count_packet(skb, pkt, CM_FORWARDED);
	return TC_ACT_UNSPEC;
}

#endif
