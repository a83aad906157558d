/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Keys and values of the pinned maps. A layout never changes under the same map name. */
#ifndef CILMARK_ABI_MAPS_H
#define CILMARK_ABI_MAPS_H

#include "vmlinux.h"
#include "abi/config.h"

enum cm_map_limit {
	CM_IDENTITY_NAME = 31,
	CM_ID_LABELS_TEXT = 512,
	CM_SPEC_TEXT = 248, /* of one piece */
	CM_NICS = 16, /* of a root, that have a policy */
};

/* Who has put something there: an operator by a command or by a file, the hook of a runtime, a cluster. */
enum cm_origin {
	CM_ORIGIN_COMMAND = 0,
	CM_ORIGIN_FILE = 1,
	CM_ORIGIN_HOOK = 2,
	CM_ORIGIN_CLUSTER = 3,
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
	__u16 endpoint_id; /* whose attach added it; 0: nobody's */
	__u8 is_host; /* an address of this host, whatever its identity */
	__u8 origin; /* enum cm_origin; of an endpoint's 0 */
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
	CM_INDEX_ASK_TRIE = 0, /* beyond /64, or newer than the index; also where there is none */
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
	/*
	 * A leaf's: length << 40 | enum cm_index_known << 32 | identity, with one more than the length of the prefix that
	 * has the identity, or 0 if that is not known. Else the number of the node below.
	 */
	__u64 value;
};

/* Node 0 is the root, and all leaves lie on the last level. The first line needs no bound. */
struct cm_index_node {
	struct cm_index_line lines[CM_INDEX_LINES];
};

enum cm_generation_size {
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
	__u32 writing; /* what remotes follow from; left 1 by a writer that died */
};

/* cm_endpoints: cm_address -> cm_endpoint. */
struct cm_endpoint {
	__u64 netns; /* inode of the network namespace that the device lives in */
	__u32 ifindex;
	__u16 endpoint_id;
	__u8 role; /* enum cm_role */
	__u8 delivery; /* enum cm_delivery; if not 0, cm_policy_call has its to_container */
};

/* cm_endpoint_net: cm_prefix -> cm_prefix_owner, a workload. */
struct cm_prefix_owner {
	__u64 netns;
	__u32 ifindex;
	__u16 endpoint_id;
	__u8 length; /* of the prefix, bits */
	__u8 is_shared; /* others may have it, too; this is one of them */
};

/* cm_devices: endpoint id (__u32) -> cm_device, as in the endpoint's cm_config. */
struct cm_device {
	__u64 netns;
	__u32 ifindex;
	char name[CM_DEVICE_NAME];
	__u32 pad;
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
enum cm_policy_beside {
	CM_LISTED = 2, /* the list of rules */
	CM_PORT_BLOCKS = 3, /* cm_port_blocks of the direction that is the identity here */
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

/* By whom a listed rule is there, one bit each: as long as any is left. */
enum cm_rule_holders {
	CM_RULE_OF_ORIGIN =
		1 << 0, /* << enum cm_origin: the endpoint's own, or the identity's in its list */
	CM_RULE_OF_IDENTITY = 1 << 7, /* of an endpoint's: its identity has it */
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
	__u8 holders; /* of a listed rule: enum cm_rule_holders; 0, of an older version: a command */
};

/* The blocks that a set's entries of one direction have, or'ed; as large as an entry. */
struct cm_port_blocks {
	__u32 of_peers;
	__u32 of_any;
	__u32 tells_host; /* as CM_POLICY_TELLS_HOST, for what no entry matches */
	__u32 pad;
};

enum cm_policy_slot {
	CM_POLICY_CURRENT = 0, /* in cm_policy_sets; in cm_nic_policies for each slot */
	CM_POLICY_PREVIOUS = 1,
	CM_POLICIES = 2,
	CM_NIC_POLICIES = CM_NICS * CM_POLICIES,
};

/*
 * cm_id_rules: the rules of identities, of each up to two lists, in two of its places for them. What has the key of a
 * rule is a cm_policy_entry without a number; no program reads them, but what endpoints' rules are made of.
 */
struct cm_id_rule_key {
	__u32 identity;
	__u16 place; /* in the list; of a head 0 */
	__u8 list; /* below CM_ID_RULES_LISTS */
	__u8 pad;
};

enum cm_id_rules_list {
	CM_ID_RULES_LISTS = 4, /* two that count, and two to be written */
	CM_ID_RULES_HEAD = CM_ID_RULES_LISTS, /* in the place of a list: cm_id_rules_head */
};

/* Which lists count: written last, in one step. As large as an entry. */
struct cm_id_rules_head {
	__u64 until_ns; /* coarse monotonic clock: on trial until then; 0: never was */
	__u16 current_count;
	__u16 previous_count;
	__u8 current;
	__u8 previous; /* comes back by then; CM_ID_RULES_HEAD: none, what is current is for good */
	__u16 pad;
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
	CM_CT_ASKS = 1 << 7, /* UDP: a question to many, which has a second entry for its answers */
};

/* What is known of a flow that is older than its policy. */
enum cm_ct_picked_up {
	CM_CT_PICKED_UP_UNKNOWN = 1, /* nobody saw who began */
	CM_CT_PICKED_UP_KNOWN = 2, /* the kernel's conntrack tells who began */
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
	/*
	 * Of the originator, as mark or flow label said it; 0: ask the ipcache. In the second entry of a question, if that went to
	 * the broadcast address of a network: this.
	 */
	__u32 claimed_identity;
	/* The same of a second NIC, << CM_FLOW_SECOND_SHIFT; 0 if there is none, or the number is too large. */
	__u16 second_rule;
	__u16 born; /* the lower half of ticks */
	__u8 direction; /* of the first packet: enum cm_direction */
	__u8 state; /* enum cm_ct_state */
	__u8 picked_up; /* enum cm_ct_picked_up; 0: its first packet was seen */
	__u8 masqueraded; /* a workload's under the host's address: no policy applies */
};

enum cm_flow_size {
	CM_FLOW_WAYS = 8, /* flows in a bucket */
	CM_FLOW_NIC_SHIFT = 28, /* no policy has as many rules */
	CM_FLOW_SECOND_SHIFT = 12,
	CM_FLOW_TICK_SHIFT = 6, /* jiffies >> this are ticks, in which a flow's age is told */
	CM_FLOW_QUESTION = 0xff, /* instead of UDP in the key of a question's second entry */
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
	__u8 origin; /* enum cm_origin */
};

/* cm_id_labels: identity (__u32) -> cm_id_labels. What a cluster says who it is, as people read it. */
struct cm_id_labels {
	char text[CM_ID_LABELS_TEXT]; /* zero-terminated; what is longer is cut off */
};

/*
 * cm_spec: number of the piece (__u32) -> cm_spec. What an endpoint was asked to be, a text of JSON in as many pieces
 * as it takes. It counts while the programs that run are those that were loaded with this configuration.
 */
struct cm_spec {
	__u32 config; /* the kernel's number of the map */
	__u8 version;
	__u8 origin; /* enum cm_origin, of the endpoint */
	__u16 length; /* bytes of this piece */
	char text[CM_SPEC_TEXT];
};

_Static_assert(sizeof(struct cm_prefix) == 24, "trie key without padding");
_Static_assert(sizeof(struct cm_ipcache_entry) == 8, "map value without padding");
_Static_assert(sizeof(struct cm_index_line) == 16, "so that a node has no padding");
_Static_assert(sizeof(struct cm_index_node) == 256, "whole cache lines");
_Static_assert(sizeof(struct cm_endpoint) == 16, "map value without padding");
_Static_assert(sizeof(struct cm_prefix_owner) == 16, "map value without padding");
_Static_assert(sizeof(struct cm_device) == 32, "map value without padding");
_Static_assert(sizeof(struct cm_generations) == 4 * (CM_REMOTES + CM_POLICY_COUNTERS + 2),
	       "map value without padding");
_Static_assert(sizeof(struct cm_policy_key) == 12, "hash key without padding");
_Static_assert(sizeof(struct cm_policy_entry) == 16, "map value without padding");
_Static_assert(sizeof(struct cm_port_blocks) == 16, "values of one map");
_Static_assert(sizeof(struct cm_id_rule_key) == 8, "hash key without padding");
_Static_assert(sizeof(struct cm_id_rules_head) == 16, "values of one map");
_Static_assert(sizeof(struct cm_flow_table) == 72, "map value without padding");
_Static_assert(sizeof(struct cm_ct4_key) == 16, "hash key without padding");
_Static_assert(sizeof(struct cm_ct6_key) == 40, "hash key without padding");
_Static_assert(sizeof(struct cm_stack_flow) == 48, "hash key without padding");
_Static_assert(sizeof(struct cm_flow) == 24, "map value without padding");
_Static_assert(sizeof(struct cm_flow_ways) == 56, "a cache line with lock and seq");
_Static_assert(sizeof(struct cm_flow4_slot) == 40, "so that a bucket has no padding");
_Static_assert(sizeof(struct cm_flow6_slot) == 64, "so that a bucket has no padding");
_Static_assert(sizeof(struct cm_flows4) == 64 + 8 * 40, "map value without padding");
_Static_assert(sizeof(struct cm_flows6) == 64 + 8 * 64, "map value without padding");
_Static_assert(sizeof(struct cm_flow_edit) == 80, "bytes without padding");
_Static_assert(sizeof(struct cm_frag4_key) == 16, "hash key without padding");
_Static_assert(sizeof(struct cm_frag6_key) == 44, "hash key without padding");
_Static_assert(sizeof(struct cm_frag_ports) == 4, "map value without padding");
_Static_assert(sizeof(struct cm_nic) == 176, "map value without padding");
_Static_assert(sizeof(struct cm_nics) == 16 + CM_NICS * 176, "map value without padding");
_Static_assert(sizeof(struct cm_spec) == 256, "map value without padding");
_Static_assert(sizeof(struct cm_identity) == 32, "map value without padding");
_Static_assert(sizeof(struct cm_id_labels) == 512, "map value without padding");

#endif
