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
	CM_MAX_FAILSAFE = 16, /* ports of one direction */
	CM_DEVICE_NAME = 16, /* IFNAMSIZ */
	CM_IDENTITY_NAME = 32,
	CM_NICS = 16, /* of a root, that have a policy */
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

enum cm_family {
	CM_IPV4 = 4,
	CM_IPV6 = 6,
};

/* Why a packet was dropped, or 0: Cilium's numbers (bpf/lib/common.h of 1.19, without the sign). */
enum cm_reason {
	CM_FORWARDED = 0,
	/* Not a packet's fate: what else cm_metrics counts. */
	CM_EVENT_LOST = 64, /* an event that no reader got */
	CM_AUDITED = 65, /* a packet that would have been dropped but for audit */
	CM_FLOW_FAILED = 67, /* a new flow that found no room in conntrack; its packet passed */
	CM_FLOW_DISPLACED =
		70, /* and the class of a flow that gave way to a new one: five of them */
	CM_DROP_INVALID_SOURCE = 132,
	CM_DROP_POLICY = 133, /* no rule allows it */
	CM_DROP_INVALID_PACKET = 134,
	CM_DROP_UNKNOWN_L3 = 139,
	CM_DROP_MISSED_TAIL_CALL = 140,
	CM_DROP_WRITE_ERROR = 141,
	CM_DROP_INVALID_EXTHDR = 156,
	CM_DROP_UNSUPPORTED_L2 = 166,
	CM_DROP_FRAGMENT_NOT_FOUND = 175, /* a later fragment without its first */
	CM_DROP_FORBIDDEN_ICMP6 = 176,
	CM_DROP_POLICY_DENY = 181, /* a rule denies it */
	CM_REASONS = 256,
};

/* Cilium's message types (pkg/monitor/api). */
enum cm_event_type {
	CM_EVENT_DROP = 1,
	CM_EVENT_TRACE = 4,
	CM_EVENT_POLICY_VERDICT = 5,
};

/* What decided about a packet: one of these, or a rule's number. Indexes cm_rule_stats. */
enum cm_rule_number {
	CM_RULE_NONE = 0, /* nobody was asked, or no rule matched */
	CM_RULE_FAILSAFE = 1,
	CM_RULE_ICMP = 2, /* an ICMP message that always passes (RFC 4890, path MTU) */
	CM_RULE_RELATED = 3, /* an ICMP error about a flow that is allowed */
	CM_RULE_PICKED_UP = 4, /* was up before the first enforcement */
	CM_RULE_MASQUERADED = 5, /* a workload's, under an address of this host */
	CM_RULE_IGMP = 6, /* between listeners and multicast routers of a link */
	CM_RULE_DHCP = 7, /* a workload's request for a lease, and the answer */
	CM_RULE_ANOTHER_NIC = 8, /* what another NIC says about a flow that has passed it */
	CM_RULE_FIRST = 16, /* the lowest number of a rule that somebody wrote */
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
	__u8 l3_device; /* packets start with the IP header: tun, WireGuard */
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
	__u8 pad_behind[4];
};

/* A pending confirmation, of a container in .bss, of a NIC in cm_nics; all zero: none. */
struct cm_confirm {
	__u64 until_ns; /* coarse monotonic clock; from then on the fallback counts */
	enum cm_fallback fallback;
	__u32 pad;
};

/*
 * What the policy of a NIC is, but for its rules: for the programs of the other NICs of the root, which
 * judge by it the flows that have passed this one. Its own were loaded with all of it but the clock.
 */
struct cm_nic {
	struct cm_confirm confirm;
	__u32 endpoint_id; /* 0: the slot is free */
	enum cm_policy_mode policy[2]; /* indexed by enum cm_direction */
	__u32 failsafe_count[2];
	struct cm_failsafe failsafe[2][CM_MAX_FAILSAFE];
	__u32 ifindex; /* of the device, also of the last one that had the slot */
	__u64 netns; /* inode of the network namespace that it lives in */
};

/* cm_nics: the NICs with a policy, by their slots. Written word by word, while programs read it. */
struct cm_nics {
	__u32 taken; /* 1 << slot of each */
	__u32 clocks; /* the same of those that wait to be confirmed, or were not in time */
	__u32 used; /* the same of those that flows may have passed, also whoever had them before */
	__u32 pad;
	struct cm_nic nics[CM_NICS];
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

/* Slots of cm_ipcache_idx: IPv4 by its 32 bits, IPv6 by bits 0 to 62 of its upper half. */
enum cm_index_slot {
	CM_INDEX_IPV4 = 0,
	CM_INDEX_IPV6_LOW = 1, /* ::/1 */
	CM_INDEX_IPV6_HIGH = 2, /* 8000::/1 */
	CM_INDEX_SLOTS = 3,
};

/* What an index knows of an address. */
enum cm_index_known {
	CM_INDEX_ASK_TRIE = 0, /* prefixes beyond /64 begin here; also where there is no index */
	CM_INDEX_NOBODY = 1, /* no prefix has it */
	CM_INDEX_IDENTITY = 2,
};

enum cm_index_size {
	CM_INDEX_LINES = 16, /* of a node */
	CM_INDEX_LEVELS = 6, /* of nodes; so there may be 16^6 intervals */
};

/* An interval of addresses in a node of a static search tree, or in an inner node several. */
struct cm_index_line {
	/*
	 * 2^63 less the lowest address, so that the top bit of address + bound tells whether that is
	 * not above the address; 0, of a line that is not used, is above all.
	 */
	__u64 bound;
	/* A leaf's: enum cm_index_known << 32 | identity; else the number of the node below. */
	__u64 value;
};

/* Node 0 is the root, and all leaves lie on the last level. The first line needs no bound. */
struct cm_index_node {
	struct cm_index_line lines[CM_INDEX_LINES];
};

/* Of what the nodes are made. */
struct cm_index_enums {
	enum cm_index_slot slot;
	enum cm_index_known known;
	enum cm_index_size size;
	__u32 pad;
};

enum {
	/*
	 * Counters of remote ends: so many that 5000 changes a second, of addresses that no flow has, concern few flows by
	 * the hash, and so few that they stay in the nearest cache.
	 */
	CM_REMOTE_BITS = 10,
	CM_REMOTES = 1 << CM_REMOTE_BITS,
	CM_POLICY_COUNTERS = 1 << 16, /* an endpoint's policy's, by its id */
};

/*
 * cm_generations: counters, all of which only grow. A verdict counts as long as the sum of two of them is what
 * it was: of the flow's remote end, by its address, and of the policy that gave it.
 */
struct cm_generations {
	__u32 remotes
		[CM_REMOTES]; /* by remote_slot(): the ipcache and the endpoints say something else */
	__u32 policies
		[CM_POLICY_COUNTERS]; /* by a container's endpoint id; 0: all NICs. Odd: it is being changed */
	__u32 changes; /* of any of these, for what user space remembers */
	__u32 pad;
};

/* cm_endpoints: cm_address -> cm_endpoint. */
struct cm_endpoint {
	__u64 netns; /* inode of the network namespace that the device lives in */
	__u32 ifindex;
	__u16 endpoint_id;
	__u8 role; /* enum cm_role */
	__u8 delivery; /* enum cm_delivery; if not 0, cm_policy_call has its to_container */
};

/*
 * How much of protocols and ports an entry of rules covers, from its port on: a range of ports is several
 * entries. Powers of 16, of which a lookup asks for each that there is, and so few.
 */
enum cm_port_block {
	CM_PORT_BLOCK_NONE = 0,
	CM_PORT_BLOCK_PORT = 1, /* or ICMP type */
	CM_PORT_BLOCK_16 = 1 << 4,
	CM_PORT_BLOCK_256 = 1 << 8,
	CM_PORT_BLOCK_4096 = 1 << 12,
	CM_PORT_BLOCK_PROTOCOL = 1 << 16, /* all its ports */
	CM_PORT_BLOCK_ALL = 1 << 24, /* all protocols */
};

/*
 * cm_policy: what the rules of an endpoint come to. Of the entries for the peer that a flow has, the one
 * of the smallest block counts, and likewise of those for any (0). One that denies decides, else the
 * peer's own, else that of any. The list of the rules lies beside them, and what blocks there are, under
 * directions of their own.
 */
struct cm_policy_key {
	__u32 identity; /* of the other end; 0 any. Of a listed rule: its place in the list */
	enum cm_port_block block;
	__u16 port; /* destination port of the flow; ICMP type; host byte order, a multiple of block */
	__u8 protocol;
	__u8 direction; /* enum cm_direction, or one of those below */
};

/* In the place of a direction: no packet's. */
enum {
	CM_LISTED = 2, /* the list of rules */
	CM_PORT_BLOCKS = 3, /* cm_port_blocks of the direction stand in place of an identity */
};

enum cm_policy_flags {
	CM_POLICY_DENIES = 1 << 0,
	CM_POLICY_EGRESS = 1 << 1, /* the rule's direction */
	/*
	 * Nothing else is to be asked once this entry is found: of a peer's, because it denies or no entry
	 * for any does; of any's for one port, because all entries for peers are for one port, too.
	 */
	CM_POLICY_FINAL = 1 << 2,
	CM_POLICY_TELLS_HOST = 1 << 3, /* a rule of this direction names the host or the world */
};

/* The rule that decides. */
struct cm_policy_entry {
	__u32 rule; /* its number, which indexes its counters; CM_RULE_FIRST and up */
	__u32 peer; /* identity that it was written for; 0 any */
	__u16 first_port; /* or ICMP type, host byte order */
	__u16 last_port;
	__u8 protocol;
	__u8 parts; /* 0 no protocol, 1 protocol, 2 protocol and ports or type */
	__u8 flags; /* enum cm_policy_flags */
	__u8 pad;
};

/* The blocks that a set's entries of one direction have, or'ed; as large as an entry. */
struct cm_port_blocks {
	__u32 of_peers;
	__u32 of_any;
	__u32 tells_host; /* as CM_POLICY_TELLS_HOST, for what no entry matches */
	__u32 pad;
};

enum {
	CM_POLICY_CURRENT = 0, /* in cm_policy_sets; in cm_nic_policies for each slot */
	CM_POLICY_PREVIOUS = 1,
	CM_POLICIES = 2,
	CM_NIC_POLICIES = CM_NICS * CM_POLICIES,
};

/*
 * cm_flow_table: what the flows of all endpoints have in common; one element. A scope is 0 for all NICs of a
 * root, since routes may be asymmetric, and for a container a serial of 24 bits that no other has: so the
 * next container inherits no flows, whatever number, name or address it gets.
 */
struct cm_flow_table {
	__u64 seed[8]; /* a secret for hashes of flows, made once; zero: not yet */
	__u32 last_scope; /* that was given to a container; counts on beyond 24 bits, which come again then */
	__u32 pad;
};

/*
 * A flow in conntrack. Local is the endpoint's own end (a workload's address; on a NIC the
 * host's), so that both directions have one entry. The identifier of an echo stands in the port of
 * the end that sent the request, and one more than that in the other end's: so no request of that end
 * has the same key, whatever its identifier.
 */
struct cm_ct4_key {
	__be32 local;
	__be32 remote;
	__be16 local_port;
	__be16 remote_port;
	__u16 scope; /* lower bits of cm_config.scope */
	__u8 scope_high;
	__u8 protocol;
};

struct cm_ct6_key {
	struct cm_ipv6 local;
	struct cm_ipv6 remote;
	__be16 local_port;
	__be16 remote_port;
	__u16 scope;
	__u8 scope_high;
	__u8 protocol;
};

/*
 * cm_path_flows: a flow that stays with the stack, as in cm_ct4_key. Without ports what does not show
 * them: later fragments, and ICMP that is no echo.
 */
struct cm_stack_flow {
	struct cm_address local;
	struct cm_address remote;
	__be16 local_port;
	__be16 remote_port;
	__u16 scope;
	__u8 scope_high;
	__u8 protocol;
};

/* What is known of a flow's progress. */
enum cm_ct_state {
	CM_CT_ESTABLISHED =
		1 << 0, /* TCP: its originator has sent more than a SYN; others always */
	CM_CT_FIN_ORIGINATOR = 1 << 1,
	CM_CT_FIN_REPLY = 1 << 2,
	CM_CT_CLOSING = 1 << 3, /* both have sent FIN, or the endpoint itself a RST just now */
	CM_CT_ANSWERED = 1 << 4, /* the other end than its originator has sent */
	CM_CT_CONFIRMED = 1 << 5, /* its originator has sent again after that */
	CM_CT_RESET = 1 << 6, /* the far end has sent a RST just now, which anybody can forge */
};

/* What is known of a flow that is older than its policy. */
enum cm_ct_picked_up {
	CM_CT_PICKED_UP_UNKNOWN = 1, /* nobody saw who began */
	CM_CT_PICKED_UP_KNOWN = 2, /* the kernel's conntrack tells who began */
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
	CM_CT_STREAM_AGE = 2, /* seconds; as nf_conntrack has it for UDP streams */
};

/* Who gives way to a new flow: the lowest that there is. */
enum cm_flow_class {
	CM_FLOW_OVER = 0, /* closing, or the far end has sent a RST */
	CM_FLOW_UNANSWERED = 1, /* the far end has begun, and nobody has answered */
	/*
	 * Begun here and not answered yet; or begun by the far end, which may have lied about its address, and
	 * answered: that it got the answer shows when it goes on.
	 */
	CM_FLOW_WAITING = 2,
	CM_FLOW_ANSWERED = 3,
	CM_FLOW_FAILSAFE = 4, /* answered, by a failsafe port */
	CM_FLOW_CLASSES = 5,
};

/* What conntrack knows of a flow. */
struct cm_flow {
	/*
	 * Epoch of the policy << 32 | slots of NICs that it has passed on its originator's way << 16 | those of
	 * them whose rules deny it, and only audit. A workload's own policy is slot 0.
	 */
	__u64 verdict;
	__u32 rule; /* which decided: of the host's the first NIC's, whose slot is << CM_FLOW_NIC_SHIFT */
	__u32 claimed_identity; /* of the originator, as mark or flow label said it; 0: ask the ipcache */
	/* The same of a second NIC, << CM_FLOW_SECOND_SHIFT; 0 if there is none, or the number is too large. */
	__u16 second_rule;
	__u16 born; /* the lower half of ticks */
	__u8 direction; /* of the first packet: enum cm_direction */
	__u8 state; /* enum cm_ct_state */
	__u8 picked_up; /* enum cm_ct_picked_up; 0: its first packet was seen */
	__u8 masqueraded; /* a workload's under the host's address: not policed */
};

enum cm_flow_size {
	CM_FLOW_WAYS = 8, /* flows in a bucket */
	CM_FLOW_NIC_SHIFT = 28, /* no policy has as many rules */
	CM_FLOW_SECOND_SHIFT = 12,
	CM_FLOW_TICK_SHIFT = 6, /* jiffies >> this are ticks, in which a flow's age is told */
	CM_FLOW_LOAD_PERCENT =
		60, /* of all ways are used when there are as many flows as were asked for */
};

/* What is asked of each way of a bucket before its flow is: one cache line, with the bucket's lock. */
struct cm_flow_ways {
	__u8 tag[CM_FLOW_WAYS]; /* of the flow's hash; 0: no flow is there */
	__u32 expires[CM_FLOW_WAYS]; /* ticks; from then on there is none either */
	__u8 class[CM_FLOW_WAYS]; /* enum cm_flow_class */
	__u8 scope[CM_FLOW_WAYS]; /* of the flow's, what one byte tells */
};

struct cm_flow4_slot {
	struct cm_ct4_key key;
	struct cm_flow flow;
};

struct cm_flow6_slot {
	struct cm_ct6_key key;
	struct cm_flow flow;
};

/*
 * cm_flows4, cm_flows6: a bucket. Only who holds the lock writes, and makes `seq` odd meanwhile: what was
 * read between two looks at the same even number is of one moment.
 */
struct cm_flows4 {
	struct bpf_spin_lock lock;
	__u32 seq;
	struct cm_flow_ways ways;
	struct cm_flow4_slot slots[CM_FLOW_WAYS];
};

struct cm_flows6 {
	struct bpf_spin_lock lock;
	__u32 seq;
	struct cm_flow_ways ways;
	struct cm_flow6_slot slots[CM_FLOW_WAYS];
};

/* What user space has the program edit_flows do with one flow. */
enum cm_flow_edit_kind {
	CM_FLOW_EDIT_NONE = 0,
	CM_FLOW_EDIT_FIND = 1, /* reads it */
	CM_FLOW_EDIT_ADD = 2, /* if it is not there, or only as audit has left it */
	CM_FLOW_EDIT_DELETE = 3,
	CM_FLOW_EDIT_LEAVE = 4, /* forgets that it has passed a slot, that of `flow.rule` */
};

/* What has come of it. */
enum cm_flow_edited {
	CM_FLOW_ABSENT = 1, /* and so neither read nor deleted */
	CM_FLOW_DONE = 2,
	CM_FLOW_THERE = 3, /* already */
	CM_FLOW_NO_ROOM = 4,
};

struct cm_flow_edit {
	enum cm_flow_edit_kind kind;
	enum cm_family family;
	enum cm_flow_edited edited;
	__u32 expires; /* ticks */
	struct cm_ct6_key key; /* of IPv4 the address is the first word of each */
	struct cm_flow flow;
};

enum cm_flow_edits {
	CM_FLOW_EDITS_OFFSET =
		16, /* in the packet that edit_flows gets: behind an Ethernet header */
	CM_FLOW_EDITS = 32, /* at most, one behind the other */
};

/*
 * cm_frags4, cm_frags6: the ports of a packet's first fragment, for those that follow. Of ICMP the
 * identifier of an echo and, in the place of the destination port, the type. Under the number of an
 * extension header that follows the fragment header: in the place of the source port, in host byte order,
 * the protocol behind the extension headers, under which the ports are.
 */
struct cm_frag4_key {
	__be32 source;
	__be32 destination;
	__be16 id;
	__u16 scope;
	__u8 scope_high;
	__u8 protocol;
	__u8 direction;
	__u8 pad;
};

struct cm_frag6_key {
	struct cm_ipv6 source;
	struct cm_ipv6 destination;
	__be32 id;
	__u16 scope;
	__u8 scope_high;
	__u8 protocol;
	__u8 direction;
	__u8 pad[3];
};

struct cm_frag_ports {
	__be16 sport;
	__be16 dport;
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
	__u8 audited; /* the policy's verdict was a drop, and it passed */
	__u32 lost; /* events lost on this CPU and endpoint before this one */
	__u32 rule; /* enum cm_rule_number, or the number of the rule that decided */
};

/* What a packet's way through a program consists of, as `cilmark explain` shows it. */
enum cm_call {
	CM_CALL_CHECK_SOURCE = 1, /* the source; reason, or 0 */
	CM_CALL_ARP_ANSWER = 2, /* the address that is asked for */
	CM_CALL_FLOW_LABEL_SET = 3, /* errno, or 0 */
	CM_CALL_POLICY_CLEAR_MARK = 4,
	CM_CALL_POLICY_VERDICT =
		5, /* ingress, egress enforced; calls what follows, up to an end of it */
	CM_CALL_CT_LOOKUP = 6, /* rule, enum cm_ct_seen | enum cm_ct_state << 16, jiffies left */
	CM_CALL_IS_HOST_TRAFFIC = 7, /* the source; yes or no */
	CM_CALL_IS_FOR_HOST = 8, /* the destination; yes or no */
	CM_CALL_FIB_LOOKUP = 9, /* an address; BPF_FIB_LKUP_RET_* */
	/* reason, or 0; source port << 16 | destination port; whether the first one was dropped */
	CM_CALL_FRAGMENT_FIND_PORTS = 10,
	/* enum cm_direction, by which other NIC's slot and 1 more, or 0; up to its CM_CALL_POLICY_LOOKUP */
	CM_CALL_POLICY_CHECK = 11,
	CM_CALL_RESOLVE_SRCID = 12, /* the source; identity that was claimed, identity */
	CM_CALL_IPCACHE_LOOKUP = 13, /* an address; identity, enum cm_ipcache_source, is_host */
	CM_CALL_POLICY_LOOKUP = 14, /* direction << 24 | protocol << 16 | port, peer, reason */
	CM_CALL_CT_CREATE = 15, /* 1: new, 0: written again */
	CM_CALL_KEEP_MASQUERADED = 16, /* ends the policing of what is not policed */
	CM_CALL_FINISH_VERDICT = 17, /* reason, rule, whether it is enforced; ends the policing */
	CM_CALL_TRACE = 18, /* what follows only serves to report the packet */
	CM_CALL_TO_CONTAINER = 19, /* endpoint, its workload's MAC or 0; it calls what follows */
	CM_CALL_STACK_FLOW = 20, /* the flow is the stack's */
};

enum cm_ipcache_source {
	CM_IPCACHE_NOWHERE = 0,
	CM_IPCACHE_HOSTS = 1, /* cm_ipcache */
	CM_IPCACHE_PREFIXES = 2, /* cm_ipcache_cidr */
	CM_IPCACHE_INDEX = 3, /* cm_ipcache_idx */
};

enum cm_ct_seen {
	CM_CT_SEEN_ENTRY = 1 << 0, /* there is one */
	CM_CT_SEEN_VALID = 1 << 1, /* the packet goes on with it */
	CM_CT_SEEN_REPLY = 1 << 2, /* it went the other way */
	CM_CT_SEEN_STALE = 1 << 3, /* its verdict is of another generation */
	CM_CT_SEEN_PICKED_UP = 1 << 4,
	CM_CT_SEEN_MASQUERADED = 1 << 5,
	CM_CT_SEEN_DENIED = 1 << 6, /* by the rules, as audit has asked them */
	CM_CT_SEEN_ANOTHER = 1 << 7, /* its verdict is about another sender */
};

enum {
	CM_MAX_STEPS = 128, /* of one packet; no way through the programs is that long */
};

struct cm_step {
	enum cm_call call;
	__u32 depth; /* of what the program itself calls: 1 */
	struct cm_address address; /* family 0: none */
	__u32 pad;
	__u64 values[3];
};

/* The enums that stand in fields which are narrower, or in values of a step. */
struct cm_step_enums {
	enum cm_ipcache_source ipcache_source;
	enum cm_ct_seen ct_seen;
	enum cm_rule_number rule;
	enum cm_policy_flags policy_flags;
	enum cm_ct_picked_up adopted;
	enum cm_ct_lifetime lifetime;
	enum cm_ct_state ct_state;
	enum cm_flow_class flow_class;
	enum cm_flow_size flow_size;
	enum cm_flow_edits flow_edits;
	enum cm_ct_age age;
	__u32 pad;
};

/* cm_steps: what a private copy of a program did with its one packet. */
struct cm_explanation {
	/*
	 * The last one that an attached program would have sent. In front, because Linux 6.1 adds no
	 * offset to what may be NULL, and clang does before the test.
	 */
	struct cm_event event;
	__u32 count; /* of the steps */
	__u32 open; /* calls that have not returned */
	struct cm_step steps[CM_MAX_STEPS];
};

_Static_assert(sizeof(struct cm_address) == 20, "hash key without padding");
_Static_assert(sizeof(struct cm_prefix) == 24, "trie key without padding");
_Static_assert(sizeof(struct cm_ipcache_entry) == 8, "map value without padding");
_Static_assert(sizeof(struct cm_index_node) == 256, "whole cache lines");
_Static_assert(sizeof(struct cm_index_enums) % 8 == 0, "variable without tail padding");
_Static_assert(sizeof(struct cm_endpoint) == 16, "map value without padding");
_Static_assert(sizeof(struct cm_generations) == 4 * (CM_REMOTES + CM_POLICY_COUNTERS + 2),
	       "map value without padding");
_Static_assert(sizeof(struct cm_policy_key) == 12, "hash key without padding");
_Static_assert(sizeof(struct cm_policy_entry) == 16, "map value without padding");
_Static_assert(sizeof(struct cm_port_blocks) == 16, "values of one map");
_Static_assert(sizeof(struct cm_flow_table) == 72, "map value without padding");
_Static_assert(sizeof(struct cm_ct4_key) == 16, "hash key without padding");
_Static_assert(sizeof(struct cm_ct6_key) == 40, "hash key without padding");
_Static_assert(sizeof(struct cm_stack_flow) == 48, "hash key without padding");
_Static_assert(sizeof(struct cm_flow) == 24, "map value without padding");
_Static_assert(sizeof(struct cm_flows4) == 64 + 8 * 40, "map value without padding");
_Static_assert(sizeof(struct cm_flows6) == 64 + 8 * 64, "map value without padding");
_Static_assert(sizeof(struct cm_flow_edit) == 80, "bytes without padding");
_Static_assert(sizeof(struct cm_frag4_key) == 16, "hash key without padding");
_Static_assert(sizeof(struct cm_frag6_key) == 44, "hash key without padding");
_Static_assert(sizeof(struct cm_confirm) == 16, "variable without padding");
_Static_assert(sizeof(struct cm_nic) == 176, "map value without padding");
_Static_assert(sizeof(struct cm_nics) == 16 + CM_NICS * 176, "map value without padding");
_Static_assert(sizeof(struct cm_identity) == 32, "map value without padding");
_Static_assert(sizeof(struct cm_counters) == 80, "map value without padding");
_Static_assert(sizeof(struct cm_event) == 112, "event without padding");
_Static_assert(sizeof(struct cm_step_enums) % 8 == 0, "variable without tail padding");
_Static_assert(sizeof(struct cm_step) == 56, "map value without padding");
_Static_assert(sizeof(struct cm_explanation) == 8 + 128 * 56 + 112, "map value without padding");
_Static_assert(sizeof(struct cm_config) % 8 == 0, "configuration without tail padding");

#endif
