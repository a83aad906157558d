/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What happened to packets: the reasons, the counters and the events. */
#ifndef CILMARK_ABI_EVENTS_H
#define CILMARK_ABI_EVENTS_H

#include "vmlinux.h"
#include "abi/config.h"
#include "abi/maps.h"

/* What output calls an enumerator. Of an enum that has these build.rs makes a table for Rust. */
#define CM_NAME(text)

/* Why a packet was dropped, or 0: Cilium's numbers (bpf/lib/common.h of 1.19, without the sign) and names. */
enum cm_reason {
	CM_FORWARDED CM_NAME("Forwarded") = 0,
	CM_DROP_INVALID_SOURCE CM_NAME("Invalid source ip") = 132,
	CM_DROP_POLICY CM_NAME("Policy denied") = 133, /* no rule allows it */
	CM_DROP_INVALID_PACKET CM_NAME("Invalid packet") = 134,
	CM_DROP_UNKNOWN_L3 CM_NAME("Unsupported L3 protocol") = 139,
	CM_DROP_MISSED_TAIL_CALL CM_NAME("Missed tail call") = 140,
	CM_DROP_WRITE_ERROR CM_NAME("Error writing to packet") = 141,
	CM_DROP_INVALID_EXTHDR CM_NAME("Invalid IPv6 extension header") = 156,
	CM_DROP_UNSUPPORTED_L2 CM_NAME("Unsupported L2 protocol") = 166,
	/* A later fragment without its first. */
	CM_DROP_FRAGMENT_NOT_FOUND CM_NAME("First logical datagram fragment not found") = 175,
	CM_DROP_FORBIDDEN_ICMP6 CM_NAME("Forbidden ICMPv6 message") = 176,
	CM_DROP_POLICY_DENY CM_NAME("Policy denied by denylist") = 181, /* a rule denies it */
	CM_REASONS = 256,
};

/*
 * What else is counted: no packet's fate. `cilmark metrics` shows it beside the reasons, so the numbers are none that
 * Cilium gives those.
 */
enum cm_counter {
	CM_COUNTER_EVENT_LOST CM_NAME("Event lost") = 64, /* an event that no reader got */
	/* A packet that would have been dropped but for audit. */
	CM_COUNTER_AUDITED CM_NAME("Policy denied, but only audited") = 65,
	/* A new flow that found no room in conntrack; its packet passed. */
	CM_COUNTER_FLOW_FAILED CM_NAME("Flow found no room in conntrack") = 67,
	/* A flow that gave way to a new one, by its enum cm_flow_class. */
	CM_COUNTER_DISPLACED_OVER CM_NAME("Flow displaced that was over") = 70,
	CM_COUNTER_DISPLACED_UNANSWERED CM_NAME("Flow displaced that was not answered") = 71,
	CM_COUNTER_DISPLACED_WAITING CM_NAME("Flow displaced that waited for an answer") = 72,
	CM_COUNTER_DISPLACED_ANSWERED CM_NAME("Flow displaced that was answered") = 73,
	CM_COUNTER_DISPLACED_FAILSAFE CM_NAME("Flow displaced of a failsafe port") = 74,
	CM_COUNTERS = 128,
};

/* Cilium's message types (pkg/monitor/api). */
enum cm_event_type {
	CM_EVENT_DROP = 1,
	CM_EVENT_TRACE = 4,
	CM_EVENT_POLICY_VERDICT = 5,
};

/* What decided about a packet: one of these, or a rule's number. Indexes cm_rule_stats. */
enum cm_rule_number {
	CM_RULE_NONE CM_NAME("no rule") = 0, /* nobody was asked, or no rule matched */
	CM_RULE_FAILSAFE CM_NAME("failsafe") = 1,
	/* An ICMP message that always passes (RFC 4890, path MTU). */
	CM_RULE_ICMP CM_NAME("icmp") = 2,
	/* An ICMP error about a flow that is allowed, or an answer to a question to many that was. */
	CM_RULE_RELATED CM_NAME("related") = 3,
	CM_RULE_PICKED_UP CM_NAME("adopted") = 4, /* was up before the first enforcement */
	/* A workload's, under an address of this host. */
	CM_RULE_MASQUERADED CM_NAME("masqueraded") = 5,
	CM_RULE_IGMP CM_NAME("igmp") = 6, /* between listeners and multicast routers of a link */
	CM_RULE_DHCP CM_NAME("dhcp") = 7, /* a workload's request for a lease, and the answer */
	/* What another NIC says about a flow that has passed it. */
	CM_RULE_ANOTHER_NIC CM_NAME("another NIC") = 8,
	CM_RULE_FIRST = 16, /* the lowest number of a rule that somebody wrote */
};

/*
 * cm_metrics: direction * CM_REASONS + enum cm_reason (__u32) -> cm_metrics, a value for each CPU.
 * cm_stats: direction * CM_COUNTERS + enum cm_counter (__u32) -> __u64, a value for each CPU.
 */
struct cm_metrics {
	__u64 packets;
	__u64 bytes;
};

/* One endpoint on one CPU; indexed by enum cm_direction. */
struct cm_counters {
	struct cm_metrics forwarded[2];
	struct cm_metrics dropped[2];
	__u64 window; /* the second that events are counted in, coarse clock */
	__u32 window_events;
	__u32 lost; /* events since the last one that was delivered */
};

/* cm_events: one record for each event. */
struct cm_event {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	enum cm_event_type type;
	enum cm_program program;
	enum cm_direction direction;
	enum cm_reason reason;
	__u32 endpoint_id;
	__u32 ifindex;
	__u32 length; /* of the packet, bytes */
	__u32 mark_in;
	__u32 mark_out;
	__u32 source_identity;
	__u32 destination_identity;
	struct cm_address source; /* family 0: not IP */
	struct cm_address destination;
	__be16 sport;
	__be16 dport;
	__be16 ethertype;
	__u8 protocol;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 tcp_flags;
	__u8 fragment; /* 1: a fragment, with ports if it is the first */
	__u8 audited; /* the policy's verdict was a drop, and it passed */
	__u32 lost; /* events lost on this CPU and endpoint before this one */
	__u32 rule; /* enum cm_rule_number, or the number of the rule that decided */
};

_Static_assert(CM_COUNTER_DISPLACED_OVER + CM_FLOW_CLASSES - 1 == CM_COUNTER_DISPLACED_FAILSAFE,
	       "one for each class");
_Static_assert(sizeof(struct cm_metrics) == 16, "map value without padding");
_Static_assert(sizeof(struct cm_counters) == 80, "map value without padding");
_Static_assert(sizeof(struct cm_event) == 112, "event without padding");

#endif
