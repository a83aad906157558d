/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Reporting what passes: nobody pays for it but while somebody reads it. */
#ifndef CILMARK_TRACE_H
#define CILMARK_TRACE_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "events.h"
#include "packet.h"

static __always_inline int tracing(void)
{
	return trace_until_ns && bpf_ktime_get_coarse_ns() < trace_until_ns;
}

/* Reports a packet that passes, with the identities that nobody else has asked for. */
static __always_inline void trace(struct __sk_buff *skb, struct packet *pkt, __u32 source_identity,
				  __u32 destination_identity)
{
	pkt->source_identity = source_identity;
	pkt->destination_identity = destination_identity;
	send_event(skb, pkt, CM_EVENT_TRACE, CM_FORWARDED);
}

#endif
