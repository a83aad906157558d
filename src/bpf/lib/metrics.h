/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Counting packets, for the host and for each endpoint, and what else happens. */
#ifndef CILMARK_METRICS_H
#define CILMARK_METRICS_H

#include "abi/config.h"
#include "abi/events.h"
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "packet.h"

/* Of the whole host, by direction and reason. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * CM_REASONS);
	__type(key, __u32);
	__type(value, struct cm_metrics);
} cm_metrics SEC(".maps");

/* Of the whole host, by direction and enum cm_counter. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * CM_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} cm_stats SEC(".maps");

/* Of this endpoint. Not pinned: user space finds it through the program and hands it on. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cm_counters);
} cm_counters SEC(".maps");

static __always_inline struct cm_counters *endpoint_counters(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&cm_counters, &key);
}

static __always_inline void metrics_add(struct cm_metrics *metrics, __u32 bytes)
{
	metrics->packets++;
	metrics->bytes += bytes;
}

static __always_inline void count_packet(struct __sk_buff *skb, const struct packet *pkt,
					 enum cm_reason reason)
{
	enum cm_direction direction = packet_direction(pkt);
	struct cm_counters *counters = endpoint_counters();
	__u32 key = direction * CM_REASONS + reason;
	struct cm_metrics *metrics = bpf_map_lookup_elem(&cm_metrics, &key);

	if (config.explain)
		return;
	if (metrics)
		metrics_add(metrics, skb->len);
	if (counters)
		metrics_add(reason == CM_FORWARDED ? &counters->forwarded[direction] :
						     &counters->dropped[direction],
			    skb->len);
}

/* Takes back that a packet was forwarded. */
static __always_inline void uncount_packet(struct __sk_buff *skb, const struct packet *pkt)
{
	enum cm_direction direction = packet_direction(pkt);
	struct cm_counters *counters = endpoint_counters();
	__u32 key = direction * CM_REASONS + CM_FORWARDED;
	struct cm_metrics *metrics = bpf_map_lookup_elem(&cm_metrics, &key);

	if (!metrics || !counters || config.explain)
		return;
	metrics->packets--;
	metrics->bytes -= skb->len;
	counters->forwarded[direction & 1].packets--;
	counters->forwarded[direction & 1].bytes -= skb->len;
}

static __always_inline void counter_add(const struct packet *pkt, enum cm_counter counter)
{
	__u32 key = packet_direction(pkt) * CM_COUNTERS + counter;
	__u64 *count = bpf_map_lookup_elem(&cm_stats, &key);

	if (count && !config.explain)
		(*count)++;
}

static __always_inline void count_lost_event(const struct packet *pkt, struct cm_counters *counters)
{
	counters->lost++;
	counter_add(pkt, CM_COUNTER_EVENT_LOST);
}

#endif
