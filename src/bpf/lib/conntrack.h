/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Flows: one entry for both directions of each, under (local end, remote end), which knows who
 * began, how far it has come, and the policy's verdict.
 */
#ifndef CILMARK_CONNTRACK_H
#define CILMARK_CONNTRACK_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "endpoint.h"
#include "packet.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, struct cm_ct4_key);
	__type(value, struct cm_ct_entry);
} cm_ct4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, struct cm_ct6_key);
	__type(value, struct cm_ct_entry);
} cm_ct6 SEC(".maps");

/* A flow as one of its packets shows it, or as an ICMP error quotes it. */
struct tuple {
	const struct cm_address *local;
	const struct cm_address *remote;
	__be16 local_port;
	__be16 remote_port;
	__u8 protocol;
};

static __always_inline struct tuple tuple_of(const struct packet *pkt, enum cm_direction direction)
{
	int sent = direction == CM_EGRESS;

	return (struct tuple){
		.local = &pkt->source + !sent,
		.remote = &pkt->source + sent,
		.local_port = sent ? pkt->sport : pkt->dport,
		.remote_port = sent ? pkt->dport : pkt->sport,
		.protocol = pkt->l4_protocol,
	};
}

/* One workload's permission is not its neighbour's; all NICs share one, for asymmetric routes. */
static __always_inline __u16 ct_scope(void)
{
	return config.role == CM_ROLE_CONTAINER ? config.endpoint_id : 0;
}

static __always_inline void ct4_key(struct cm_ct4_key *key, const struct tuple *tuple)
{
	*key = (struct cm_ct4_key){
		.local = address_words(tuple->local)[0],
		.remote = address_words(tuple->remote)[0],
		.local_port = tuple->local_port,
		.remote_port = tuple->remote_port,
		.scope = ct_scope(),
		.protocol = tuple->protocol,
	};
}

static __always_inline void ct6_key(struct cm_ct6_key *key, const struct tuple *tuple)
{
	*key = (struct cm_ct6_key){
		.local_port = tuple->local_port,
		.remote_port = tuple->remote_port,
		.scope = ct_scope(),
		.protocol = tuple->protocol,
	};
	__builtin_memcpy(&key->local, tuple->local->bytes, sizeof(key->local));
	__builtin_memcpy(&key->remote, tuple->remote->bytes, sizeof(key->remote));
}

/*
 * Of two calls that differ in their maps clang likes to make one, which the kernel can neither inline
 * nor make direct. With a constant of its own behind it, a call stays what it is. Not with a comment, which
 * gets a line record at the offset of the next instruction: the kernel refuses two at one.
 */
#define STAYS_A_CALL_OF_ITS_OWN(number) asm volatile("" ::"i"(number))

/* Two keys, because a union of them makes clang copy bytes: 12 ns a packet. */
static __always_inline struct cm_ct_entry *ct_lookup(const struct tuple *tuple)
{
	struct cm_ct_entry *entry;

	if (tuple->local->family == CM_IPV4) {
		struct cm_ct4_key key;

		ct4_key(&key, tuple);
		entry = bpf_map_lookup_elem(&cm_ct4, &key);
		STAYS_A_CALL_OF_ITS_OWN(CM_IPV4);
	} else {
		struct cm_ct6_key key;

		ct6_key(&key, tuple);
		entry = bpf_map_lookup_elem(&cm_ct6, &key);
		STAYS_A_CALL_OF_ITS_OWN(CM_IPV6);
	}
	return entry;
}

/* 0, or a negative errno. */
static __always_inline long ct_write(const struct tuple *tuple, const struct cm_ct_entry *entry)
{
	long error;

	if (tuple->local->family == CM_IPV4) {
		struct cm_ct4_key key;

		ct4_key(&key, tuple);
		error = bpf_map_update_elem(&cm_ct4, &key, entry, BPF_ANY);
		STAYS_A_CALL_OF_ITS_OWN(CM_IPV4);
	} else {
		struct cm_ct6_key key;

		ct6_key(&key, tuple);
		error = bpf_map_update_elem(&cm_ct6, &key, entry, BPF_ANY);
		STAYS_A_CALL_OF_ITS_OWN(CM_IPV6);
	}
	return error;
}

static __always_inline __u64 ct_verdict(__u32 epoch, __u32 rule, int allowed)
{
	return (__u64)epoch << 32 | (__u64)rule << 1 | allowed;
}

/* Whether a verdict allows its flow, and still counts. */
static __always_inline int ct_is_allowed(__u64 verdict, __u32 epoch)
{
	return (verdict & ~0xfffffffeULL) == ((__u64)epoch << 32 | 1);
}

static __always_inline __u32 ct_rule(__u64 verdict)
{
	return (__u32)verdict >> 1;
}

static __always_inline int ct_is_alive(const struct cm_ct_entry *entry)
{
	return entry->expires > bpf_jiffies64();
}

/* Whether nothing is left to find out about a flow: allowed, alive, under way. */
static __always_inline int ct_is_settled(const struct cm_ct_entry *entry, __u32 epoch, __u64 now)
{
	return ct_is_allowed(entry->verdict, epoch) && entry->expires > now &&
	       entry->state == CM_CT_ESTABLISHED;
}

static __always_inline int is_syn(const struct packet *pkt)
{
	return (pkt->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline __u64 ct_jiffies(__u32 seconds)
{
	return (__u64)seconds * config.jiffies_per_second;
}

/* How long a flow lives on after a packet, in jiffies. */
static __always_inline __u64 ct_lifetime(const struct cm_ct_entry *entry, __u8 protocol)
{
	if (protocol != IPPROTO_TCP)
		return ct_jiffies(entry->masqueraded ? CM_CT_LIFETIME_MASQUERADED :
						       CM_CT_LIFETIME_OTHER);
	if (entry->state & CM_CT_CLOSING)
		return ct_jiffies(CM_CT_LIFETIME_CLOSING);
	return ct_jiffies(entry->state & CM_CT_ESTABLISHED ? CM_CT_LIFETIME_ESTABLISHED :
							     CM_CT_LIFETIME_SYN);
}

/* The same of an established flow that nobody masquerades. */
static __always_inline __u64 ct_established_lifetime(const struct packet *pkt)
{
	return ct_jiffies(CM_CT_LIFETIME_OTHER) +
	       is_tcp(pkt) * ct_jiffies(CM_CT_LIFETIME_ESTABLISHED - CM_CT_LIFETIME_OTHER);
}

_Static_assert(CM_CT_ESTABLISHED == 1 && CM_CT_FIN_REPLY == CM_CT_FIN_ORIGINATOR << 1 &&
		       TCP_FIN == 1,
	       "bits that arithmetic makes from each other");

/* What a packet tells of its flow's progress. */
static __always_inline void ct_advance(struct cm_ct_entry *entry, const struct packet *pkt)
{
	__u32 backward = (packet_direction(pkt) ^ entry->direction) & 1;
	__u32 flags = pkt->tcp_flags;
	__u32 state = entry->state;
	__u32 both;

	/* Without branches, of which the verifier would walk both sides of each. */
	state |= ((flags & TCP_SYN) / TCP_SYN ^ 1) &
		 ((backward ^ 1) | entry->adopted | entry->adopted >> 1);
	state |= (flags & TCP_FIN) * CM_CT_FIN_ORIGINATOR << backward;
	both = state / CM_CT_FIN_ORIGINATOR & state / CM_CT_FIN_REPLY & 1;
	/* Not for ever after a RST: an attacker may have sent it, and the flow goes on. */
	state &= ~CM_CT_CLOSING;
	state |= (both | (flags & TCP_RST) / TCP_RST) * CM_CT_CLOSING;
	entry->state = state;
	entry->expires = bpf_jiffies64() + ct_lifetime(entry, pkt->l4_protocol);
}

/*
 * Whether a packet may end its flow. The entry is then replaced, not written in place: the LRU takes what
 * nobody has looked up since for unused, and should make room with what is over, not with a SYN's entry
 * before the answer comes.
 */
static __always_inline int ct_may_end(const struct cm_ct_entry *entry, const struct packet *pkt)
{
	return entry->state & CM_CT_CLOSING || pkt->tcp_flags & TCP_RST ||
	       (pkt->tcp_flags & TCP_FIN &&
		entry->state & (CM_CT_FIN_ORIGINATOR | CM_CT_FIN_REPLY));
}

/* Whether a packet begins a flow anew, under a name that an older one still holds. */
static __always_inline int ct_begins_anew(const struct cm_ct_entry *entry, const struct packet *pkt)
{
	if (!is_syn(pkt))
		return 0;
	if (entry->adopted || entry->state & CM_CT_CLOSING)
		return 1;
	/*
	 * Against the flow: only two ends that open at once may (RFC 9293, 3.5). To a masqueraded one nobody may: the
	 * kernel may have forgotten it, and would give the SYN to this host.
	 */
	return packet_direction(pkt) != entry->direction &&
	       (entry->masqueraded || entry->state & CM_CT_ESTABLISHED);
}

#endif
