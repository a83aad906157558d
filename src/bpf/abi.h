/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The wire format between the datapath and user space: the configuration of an endpoint, the keys
 * and values of the pinned maps, the events. Rust gets all of it from the object's BTF. A layout
 * never changes under the same map name; a bool is a __u8 of 0 or 1.
 */
#ifndef CILMARK_ABI_H
#define CILMARK_ABI_H

#include "vmlinux.h"

enum {
	CM_MAX_ADDRESSES = 8, /* of one endpoint and family in its configuration */
	CM_DEVICE_NAME = 16, /* IFNAMSIZ */
	CM_IDENTITY_NAME = 32,
};

enum cm_role {
	CM_ROLE_NONE = 0,
	CM_ROLE_CONTAINER = 1,
	CM_ROLE_NETDEV = 2,
};

enum cm_program {
	CM_FROM_CONTAINER = 1,
	CM_TO_CONTAINER = 2,
	CM_FROM_NETDEV = 3,
	CM_TO_NETDEV = 4,
};

/* As seen from the endpoint: what it sends is egress. */
enum cm_direction {
	CM_INGRESS = 0,
	CM_EGRESS = 1,
};

enum cm_family {
	CM_IPV4 = 4,
	CM_IPV6 = 6,
};

/* Why a packet was dropped, or 0: Cilium's numbers (bpf/lib/common.h of 1.19, without the sign). */
enum cm_reason {
	CM_FORWARDED = 0,
	CM_EVENT_LOST = 64, /* not a packet's fate: an event that no reader got */
	CM_DROP_INVALID_SOURCE = 132,
	CM_DROP_INVALID_PACKET = 134,
	CM_DROP_UNKNOWN_L3 = 139,
	CM_DROP_WRITE_ERROR = 141,
	CM_DROP_INVALID_EXTHDR = 156,
	CM_DROP_UNSUPPORTED_L2 = 166,
	CM_DROP_FORBIDDEN_ICMP6 = 176,
	CM_REASONS = 256,
};

/* Cilium's message types (pkg/monitor/api). */
enum cm_event_type {
	CM_EVENT_DROP = 1,
	CM_EVENT_TRACE = 4,
};

/*
 * An address of either family, network byte order. An IPv4 address lies in the first four bytes
 * and the rest is zero; the family, 0 for no address, keeps 10.0.0.1 apart from a00:1::.
 */
struct cm_address {
	enum cm_family family;
	__u8 bytes[16];
};

struct cm_ipv6 {
	__be32 words[4];
};

/*
 * An endpoint's configuration: the program's own .rodata, written before load and frozen, so that
 * the verifier removes what the endpoint does not use. All zero, as in the object file, a program
 * passes every packet untouched.
 */
struct cm_config {
	__u64 netns; /* inode of the network namespace that the device lives in */
	__u32 endpoint_id; /* 1..65535; 0: never written */
	enum cm_role role;
	__u32 identity; /* what from_container and to_netdev stamp; below 2^24 */
	__be32 identity_nb; /* the same in network byte order, for the IPv6 flow label */
	__u32 ifindex; /* of the device */
	__u32 tc_priority; /* of the clsact filter; 0 with TCX */
	char device[CM_DEVICE_NAME]; /* its name when it was attached */
	__u8 mac[ETH_ALEN]; /* of the device, or in its place: what the ARP responder answers */
	__u8 l3_device; /* packets start with the IP header: tun, WireGuard */
	__u8 arp_responder;
	__u8 trust_proxy; /* PROXY_INGRESS and PROXY_EGRESS marks carry an identity */
	__u8 flow_label; /* write the identity into the IPv6 flow label */
	__u8 trust_flow_label; /* take it from there for sources in flow_label_prefix */
	__u8 stamp_remote; /* from_netdev puts the remote identity into the mark */
	__u32 ipv4_count;
	__u32 ipv6_count;
	__be32 ipv4[CM_MAX_ADDRESSES];
	struct cm_ipv6 ipv6[CM_MAX_ADDRESSES];
	__be32 ipv4_nodeport; /* the device's own primary addresses, or zero */
	struct cm_ipv6 ipv6_nodeport;
	struct cm_ipv6 flow_label_prefix;
	struct cm_ipv6 flow_label_mask;
	__u32 events_per_second; /* on each CPU; what is above is counted as lost */
	__u32 policy_verdict_log; /* 1 << enum cm_direction: its policy verdicts become events */
};

/* cm_ipcache: cm_address -> cm_ipcache_entry; cm_ipcache_cidr: cm_prefix -> the same. */
struct cm_prefix {
	__u32 prefixlen; /* bits of the address that count, plus 32 for the family */
	struct cm_address address;
};

struct cm_ipcache_entry {
	__u32 identity;
	__u16 endpoint_id; /* whose attach added it; 0: set by the operator */
	__u8 is_host; /* an address of this host, whatever its identity */
	__u8 pad;
};

/* cm_endpoints: cm_address -> cm_endpoint. */
struct cm_endpoint {
	__u64 netns; /* inode of the network namespace that the device lives in */
	__u32 ifindex;
	__u16 endpoint_id;
	__u8 role; /* enum cm_role */
	__u8 pad;
};

/* cm_identities: identity (__u32) -> cm_identity. */
struct cm_identity {
	char name[CM_IDENTITY_NAME]; /* zero-terminated */
};

/* cm_metrics: direction << 8 | reason (__u32) -> cm_metrics, a value for each CPU. */
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
	__u8 pad;
	__u32 lost; /* events lost on this CPU and endpoint before this one */
	__u32 pad2;
};

_Static_assert(sizeof(struct cm_address) == 20, "hash key without padding");
_Static_assert(sizeof(struct cm_prefix) == 24, "trie key without padding");
_Static_assert(sizeof(struct cm_ipcache_entry) == 8, "map value without padding");
_Static_assert(sizeof(struct cm_endpoint) == 16, "map value without padding");
_Static_assert(sizeof(struct cm_identity) == 32, "map value without padding");
_Static_assert(sizeof(struct cm_counters) == 80, "map value without padding");
_Static_assert(sizeof(struct cm_event) == 112, "event without padding");
_Static_assert(sizeof(struct cm_config) % 8 == 0, "configuration without tail padding");

#endif
