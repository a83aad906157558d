/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What happened to a packet, for `cilmark monitor`: a ring buffer and a limit to what enters it. */
#ifndef CILMARK_EVENTS_H
#define CILMARK_EVENTS_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "mark.h"
#include "metrics.h"
#include "packet.h"

static __always_inline int tracing(void)
{
	return trace_until_ns && bpf_ktime_get_coarse_ns() < trace_until_ns;
}

enum { NSEC_PER_SEC = 1000000000 };

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} cm_events SEC(".maps");

/* Never written: a record of a ring buffer reaches the object's BTF only through a variable. */
struct cm_event event_layout;

/* A flood must not cost the host its CPUs: so many a second and CPU, the rest is counted. */
static __always_inline int event_allowed(struct cm_counters *counters)
{
	__u64 window = bpf_ktime_get_coarse_ns() / NSEC_PER_SEC;

	if (counters->window != window) {
		counters->window = window;
		counters->window_events = 0;
	}
	return counters->window_events++ < config.events_per_second;
}

/*
 * A global function, because it is called where a packet's way ends early and never on the fast
 * path: inline in each of those places it was more than half of from_container.
 */
__noinline int send_event(struct __sk_buff *skb, const struct packet *pkt, enum cm_event_type type,
			  enum cm_reason reason)
{
	struct cm_counters *counters = endpoint_counters();
	struct cm_event *event;

	if (!counters || !pkt || config.explain)
		return 0;
	event = event_allowed(counters) ? bpf_ringbuf_reserve(&cm_events, sizeof(*event), 0) : NULL;
	if (!event) {
		count_lost_event(pkt, counters);
		return 0;
	}
	*event = (struct cm_event){
		.time_ns = bpf_ktime_get_ns(),
		.type = type,
		.program = pkt->program,
		.direction = packet_direction(pkt),
		.reason = reason,
		.endpoint_id = config.endpoint_id,
		.ifindex = config.ifindex,
		.length = skb->len,
		.mark_in = pkt->mark_in,
		.mark_out = mark_get(skb),
		.source_identity = pkt->source_identity,
		.destination_identity = pkt->destination_identity,
		.source = pkt->source,
		.destination = pkt->destination,
		.sport = pkt->sport,
		.dport = pkt->dport,
		.ethertype = pkt->ethertype,
		.protocol = pkt->l4_protocol,
		.icmp_type = pkt->icmp_type,
		.icmp_code = pkt->icmp_code,
		.tcp_flags = pkt->tcp_flags,
		.fragment = pkt->fragment != FRAGMENT_NONE,
		.audited = pkt->audited,
		.lost = counters->lost,
		.rule = pkt->rule,
	};
	counters->lost = 0;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

#endif
