/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What happened to a packet, for `cilmark monitor`: a ring buffer and a limit to what enters it. */
#ifndef CILMARK_EVENTS_H
#define CILMARK_EVENTS_H

#include "abi/config.h"
#include "abi/events.h"
#include "abi/explain.h"
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "explain.h"
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
 * What the endpoint has in the ring that nobody has read, by direction: its neighbours choose what it
 * receives, and must not hide what it sends. `event_bytes` counts from when the reader had last caught up
 * with `event_end`, the place behind the last of them. Two CPUs at once may lose each other's count.
 */
volatile __u64 event_end[2];
volatile __u64 event_bytes[2];

/* Of a record: the kernel's header and the event, rounded up (BPF_RINGBUF_HDR_SZ, ringbuf.c). */
enum { EVENT_SIZE = (8 + sizeof(struct cm_event) + 7) / 8 * 8 };

/*
 * An endpoint may have as much in the ring as is still free there. So whoever floods it alone takes a half,
 * the next one a half of the rest, and one that has sent nothing always finds room.
 */
static __always_inline int event_has_room(enum cm_direction direction)
{
	__u64 read = bpf_ringbuf_query(&cm_events, BPF_RB_CONS_POS);
	__u64 free = bpf_ringbuf_query(&cm_events, BPF_RB_RING_SIZE) -
		     bpf_ringbuf_query(&cm_events, BPF_RB_AVAIL_DATA);
	__s64 behind = event_end[direction & 1] - read;

	if (behind <= 0)
		event_bytes[direction & 1] = 0;
	return event_bytes[direction & 1] + EVENT_SIZE <= free;
}

static __always_inline struct cm_event *new_event(enum cm_direction direction)
{
	struct cm_event *event;

	if (!event_has_room(direction))
		return NULL;
	event = bpf_ringbuf_reserve(&cm_events, sizeof(*event), 0);
	if (event) {
		event_bytes[direction & 1] += EVENT_SIZE;
		event_end[direction & 1] = bpf_ringbuf_query(&cm_events, BPF_RB_PROD_POS);
	}
	return event;
}

/* Where the event of an explanation goes. */
static __always_inline struct cm_event *explained_event(void)
{
	struct cm_explanation *told = explanation();

	return told ? &told->event : NULL;
}

_Static_assert(__builtin_offsetof(struct cm_event, tcp_flags) ==
			       __builtin_offsetof(struct cm_event, protocol) + 3 &&
		       __builtin_offsetof(struct packet, tcp_flags) ==
			       __builtin_offsetof(struct packet, l4_protocol) + 3,
	       "four bytes in the same order");

/*
 * A global function, because it is called where a packet's way ends early and never on the fast
 * path: inline in each of those places it was more than half of from_container.
 */
__noinline int send_event(struct __sk_buff *skb, const struct packet *pkt, enum cm_event_type type,
			  enum cm_reason reason)
{
	struct cm_counters *counters = endpoint_counters();
	struct cm_event *event = NULL;

	if (!counters || !pkt)
		return 0;
	if (config.explain)
		event = explained_event();
	else if (event_allowed(counters))
		event = new_event(packet_direction(pkt));
	if (!event) {
		count_lost_event(pkt, counters);
		return 0;
	}
	/* One by one: as a whole it would be put together on the stack, which is short of 512 bytes. */
	event->time_ns = bpf_ktime_get_ns();
	event->type = type;
	event->program = packet_program(pkt);
	event->direction = packet_direction(pkt);
	event->reason = reason;
	event->endpoint_id = config.endpoint_id;
	event->ifindex = config.ifindex;
	event->length = skb->len;
	event->mark_in = pkt->mark_in;
	event->mark_out = mark_get(skb);
	event->source_identity = pkt->verdict.source_identity;
	event->destination_identity = pkt->verdict.destination_identity;
	event->source = pkt->source;
	event->destination = pkt->destination;
	event->sport = pkt->echo == ECHO_ANSWERED ? 0 : pkt->sport;
	event->dport = pkt->echo == ECHO_REQUESTED ? 0 : pkt->dport;
	event->ethertype = pkt->ethertype;
	/* With the ICMP type and code and the TCP flags, which lie behind it in both. */
	__builtin_memcpy(&event->protocol, &pkt->l4_protocol, 4);
	event->fragment = pkt->fragment != FRAGMENT_NONE;
	event->audited = pkt->verdict.audited;
	event->lost = counters->lost;
	event->rule = pkt->verdict.rule;
	if (config.explain)
		return 0;
	counters->lost = 0;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

#endif
