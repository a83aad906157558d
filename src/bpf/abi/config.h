/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The configuration of an endpoint, and what the other headers of abi/ share with it. Together they are the
 * wire format between the datapath and user space; Rust gets all of it from the object's BTF. A bool is a
 * __u8 of 0 or 1.
 */
#ifndef CILMARK_ABI_CONFIG_H
#define CILMARK_ABI_CONFIG_H

#include "vmlinux.h"

enum cm_limit {
	CM_MAX_ADDRESSES = 8, /* of one endpoint and family in its configuration */
	CM_MAX_PREFIXES = 8, /* likewise */
	CM_MAX_FAILSAFE = 16, /* ports of one direction */
	CM_DEVICE_NAME = 16, /* IFNAMSIZ */
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

/* How a workload is delivered to past the host's stack. */
enum cm_delivery {
	CM_DELIVERY_NONE = 0, /* only through the stack */
	CM_DELIVERY_PEER =
		1, /* bpf_redirect_peer: the other end of its veth is in another namespace */
	CM_DELIVERY_EGRESS = 2, /* bpf_redirect to its tap, whose to_container has the policy */
	CM_DELIVERY_SHARED =
		3, /* of an address that several may have: the stack knows who has it now */
};

/* As seen from the endpoint: what it sends is egress. */
enum cm_direction {
	CM_INGRESS = 0,
	CM_EGRESS = 1,
};

/* What a policy's verdict does, for each direction. */
enum cm_policy_mode {
	CM_POLICY_OFF = 0, /* no policy is asked */
	CM_POLICY_AUDIT = 1, /* asked, tracked, reported; everything passes */
	CM_POLICY_ENFORCE = 2,
};

/*
 * What a flow's lifetime depends on. Of a masqueraded one the configuration says how long it is, below what the kernel
 * has: an entry that outlived the kernel's would let packets in to the host itself.
 */
enum cm_ct_age {
	CM_CT_AGE_SYN = 0,
	CM_CT_AGE_ESTABLISHED = 1,
	CM_CT_AGE_CLOSING = 2,
	CM_CT_AGE_UDP = 3,
	CM_CT_AGE_UDP_STREAM = 4,
	CM_CT_AGE_OTHER = 5,
	CM_CT_AGES = 6,
};

/* How long a flow lives on after a packet, seconds. */
enum cm_ct_lifetime {
	CM_CT_LIFETIME_SYN = 60,
	CM_CT_LIFETIME_ESTABLISHED = 21600,
	CM_CT_LIFETIME_CLOSING = 10,
	CM_CT_LIFETIME_UDP = 30,
	CM_CT_LIFETIME_UDP_STREAM =
		120, /* of UDP that was answered, once it is older than CM_CT_STREAM_AGE */
	CM_CT_LIFETIME_OTHER = 60,
	CM_CT_LIFETIME_ASKED = 5, /* of what lets answers to a question to many in */
	CM_CT_STREAM_AGE = 2, /* seconds; as nf_conntrack has it for UDP streams */
};

enum cm_family {
	CM_IPV4 = 4,
	CM_IPV6 = 6,
};

/* What a pending confirmation goes back to when its time is over. */
enum cm_fallback {
	CM_FALLBACK_NONE = 0,
	CM_FALLBACK_AUDIT = 1, /* enforcing directions only audit */
	CM_FALLBACK_RULES = 2, /* the previous rules, in slot CM_POLICY_PREVIOUS */
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

/* Prefixes, network byte order; all bits of the address that the mask does not have are zero. */
struct cm_net4 {
	__be32 address;
	__be32 mask;
	__u32 length; /* of the prefix, bits */
};

struct cm_net6 {
	struct cm_ipv6 address;
	struct cm_ipv6 mask;
	__u32 length;
};

/* A port that stays open whatever the policy says. */
struct cm_failsafe {
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 pad;
	__be16 port;
} __attribute__((aligned(4))); /* for it to be read as one word */

/*
 * An endpoint's configuration: the program's own .rodata, written before load and frozen, so that
 * what the endpoint does not use is removed from its programs. All zero, as in the object file, a
 * program passes every packet untouched.
 */
struct cm_config {
	__u64 netns; /* inode of the network namespace that the device lives in */
	__u64 adopt_until_ns; /* unknown TCP flows may be old ones until then; coarse monotonic clock */
	__u32 endpoint_id; /* 1..65535; 0: never written */
	enum cm_role role;
	__u32 identity; /* what from_container and to_netdev stamp; below 2^24 */
	__be32 identity_nb; /* the same in network byte order, for the IPv6 flow label */
	__u32 ifindex; /* of the device */
	__u32 tc_priority; /* of the clsact filter; 0 with TCX */
	char device[CM_DEVICE_NAME]; /* its name when it was attached */
	__u8 mac[ETH_ALEN]; /* of the device, or in its place: what the ARP responder answers */
	__u8 l3_device; /* packets start with the IP header: tun, WireGuard, PPP */
	__u8 arp_responder;
	__u8 trust_proxy; /* PROXY_INGRESS and PROXY_EGRESS marks carry an identity */
	__u8 flow_label; /* write the identity into the IPv6 flow label */
	__u8 trust_flow_label; /* take it from there for sources in flow_label_prefix */
	__u8 stamp_remote; /* from_netdev puts the remote identity into the mark */
	__u8 bridge_port; /* of a bridge; what a NIC sees there for others passes by */
	__u8 explain; /* a private copy that tells its steps and changes nothing */
	__u8 local_delivery; /* what is for a workload of this host skips the stack */
	__u8 ct_local; /* cm_flows4 and cm_flows6 are this endpoint's own */
	enum cm_policy_mode policy[2]; /* indexed by enum cm_direction */
	__u32 jiffies_per_second; /* of this kernel (CONFIG_HZ) */
	__u8 bridge_mac[ETH_ALEN]; /* of the bridge that the device is a port of */
	__u8 program; /* enum cm_program, where it is folded into one; 0 here, since they share this */
	__u8 router; /* the workload may advertise routers and offer leases */
	__u8 source_mac[ETH_ALEN]; /* the only one that the workload may send from; zero: any */
	__u8 link_local_by_mac; /* no link-local address is given: its own is the one that its MAC makes */
	__u8 by_address; /* an address alone proves an attached workload of this host */
	__u8 trust_marks; /* identities in marks are believed, whoever of this host has set them */
	__u8 accept_local; /* the kernel takes what arrives under an address of this host */
	__u8 in_vrf; /* other addresses of this host may be at the other end of the device */
	__u8 host_addresses_listed; /* a NIC asks no routing tables which addresses are the host's */
	__u8 other_ipv4_count; /* behind its own in ipv4: what other devices of the host had then */
	__u8 other_ipv6_count;
	__u8 given_addresses; /* those below were named, and count wherever they are */
	__u8 nic_slot; /* in cm_nics, of a NIC with a policy; else 0 */
	__u32 failsafe_count[2]; /* indexed by enum cm_direction */
	struct cm_failsafe failsafe_ingress[CM_MAX_FAILSAFE];
	struct cm_failsafe failsafe_egress[CM_MAX_FAILSAFE];
	__u32 ipv4_count;
	__u32 ipv6_count;
	__be32 ipv4[CM_MAX_ADDRESSES];
	struct cm_ipv6 ipv6[CM_MAX_ADDRESSES];
	__be32 ipv4_nodeport; /* the device's own primary addresses, or zero */
	struct cm_ipv6 ipv6_nodeport;
	struct cm_ipv6 flow_label_prefix;
	struct cm_ipv6 flow_label_mask;
	__u32 events_per_second; /* on each CPU; what is above is counted as lost */
	enum cm_delivery delivery; /* to this one */
	__u32 policy_verdict_log; /* 1 << enum cm_direction: its policy verdicts become events */
	__u32 masqueraded_lifetime[CM_CT_AGES]; /* seconds */
	__u32 weakly_ordered; /* this machine's CPUs may see each other's writes in another order */
	__u64 flow_seed[8]; /* of cm_flow_table; zero without a policy */
	__u32 flow_buckets[2]; /* of cm_flows4 and cm_flows6 */
	__u32 scope; /* whose flows its own are: see struct cm_flow_table */
	__u8 ipv4_net_count; /* prefixes that are a workload's own, beside its addresses; the longest first */
	__u8 ipv6_net_count;
	__u8 shared_ipv4; /* 1 << index of its addresses that other workloads may have, too */
	__u8 shared_ipv6;
	struct cm_net4 ipv4_nets[CM_MAX_PREFIXES];
	struct cm_net6 ipv6_nets[CM_MAX_PREFIXES];
	__u8 shared_ipv4_nets; /* the same of its prefixes */
	__u8 shared_ipv6_nets;
	__u8 pad_behind[6];
};

/* A pending confirmation, of a container in .bss, of a NIC in cm_nics; all zero: none. */
struct cm_confirm {
	__u64 until_ns; /* coarse monotonic clock; from then on the fallback counts */
	enum cm_fallback fallback;
	__u32 pad;
};

_Static_assert(sizeof(struct cm_address) == 20, "hash key without padding");
_Static_assert(sizeof(struct cm_ipv6) == 16, "an address");
_Static_assert(sizeof(struct cm_net4) == 12, "three words");
_Static_assert(sizeof(struct cm_net6) == 36, "two addresses and a word");
_Static_assert(CM_MAX_ADDRESSES <= 8 && CM_MAX_PREFIXES <= 8, "a bit in a byte for each");
_Static_assert(sizeof(struct cm_failsafe) == 4, "one word");
_Static_assert(sizeof(struct cm_confirm) == 16, "variable without padding");
_Static_assert(sizeof(struct cm_config) % 8 == 0, "configuration without tail padding");

#endif
