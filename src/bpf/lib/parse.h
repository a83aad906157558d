/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* From the bytes of a frame to struct packet. IPv4 and IPv6 part here, and meet again in it. */
#ifndef CILMARK_PARSE_H
#define CILMARK_PARSE_H

#include "abi/config.h"
#include "abi/events.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "packet.h"

enum {
	/* RFC 8200 names six kinds, each at most once but one; Linux has no limit of its own. */
	MAX_EXTENSION_HEADERS = 8,
	MAX_VLAN_TAGS = 2,
};

/* The same within the IP packet: behind it lies what a sender has padded the frame with. */
static __always_inline void *ip_header_at(struct __sk_buff *skb, const struct packet *pkt,
					  __u32 offset, __u32 size)
{
	return offset + size <= pkt->end ? header_at(skb, offset, size) : NULL;
}

/*
 * Bounds the packet by the length that its IP header tells. 0 stands for a length beyond 16 bits, which
 * only the stack itself makes, of segments that it is about to part (BIG TCP).
 */
static __always_inline void set_end(struct __sk_buff *skb, struct packet *pkt, __u32 header_length,
				    __be16 length)
{
	__u32 end = pkt->l3_offset + header_length + bpf_ntohs(length);

	/* What an error quotes is cut short by the error, whatever its header tells. */
	if (pkt->is_quoted)
		return;
	pkt->end = (!length && skb->gso_size) || end > 0xffff ? 0xffff : end;
}

static __always_inline int parse_l4(struct __sk_buff *skb, struct packet *pkt)
{
	struct tcphdr *tcp;
	struct icmphdr *icmp;
	__be16 *ports;

	if (pkt->fragment == FRAGMENT_LATER)
		return 0;

	switch (pkt->l4_protocol) {
	case IPPROTO_TCP:
		if (pkt->is_quoted)
			goto ports;
		tcp = ip_header_at(skb, pkt, pkt->l4_offset, sizeof(*tcp));
		if (!tcp)
			return -CM_DROP_INVALID_PACKET;
		pkt->tcp_flags = tcp->flags;
		pkt->sport = tcp->source;
		pkt->dport = tcp->dest;
		break;
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
	ports:
		ports = ip_header_at(skb, pkt, pkt->l4_offset, 8);
		if (!ports)
			return -CM_DROP_INVALID_PACKET;
		pkt->sport = ports[0];
		pkt->dport = ports[1];
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (!is_icmp(pkt))
			break;
		icmp = ip_header_at(skb, pkt, pkt->l4_offset, sizeof(*icmp));
		if (!icmp)
			return -CM_DROP_INVALID_PACKET;
		pkt->icmp_type = icmp->type;
		pkt->icmp_code = icmp->code;
		set_echo(pkt, icmp->id);
		pkt->is_flowless = !pkt->echo;
		break;
	case IPPROTO_IGMP:
		/* Nobody else asks. */
		if (!config.policy[CM_INGRESS] && !config.policy[CM_EGRESS])
			break;
		icmp = ip_header_at(skb, pkt, pkt->l4_offset, sizeof(*icmp));
		if (!is_igmp(pkt) || pkt->fragment || !icmp || !is_igmp_of_listeners(icmp->type))
			break;
		pkt->icmp_type = icmp->type;
		pkt->is_flowless = 1;
		break;
	}
	return 0;
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, struct packet *pkt)
{
	struct iphdr *ip = ip_header_at(skb, pkt, pkt->l3_offset, sizeof(*ip));
	__u32 header_length;
	__u16 fragment;

	if (!ip || ip->ihl_version >> 4 != 4)
		return -CM_DROP_INVALID_PACKET;
	header_length = (ip->ihl_version & 0xf) * 4;
	set_end(skb, pkt, 0, ip->tot_len);
	if (header_length < sizeof(*ip) || pkt->l3_offset + header_length > pkt->end)
		return -CM_DROP_INVALID_PACKET;

	pkt->source.family = CM_IPV4;
	pkt->destination.family = CM_IPV4;
	__builtin_memcpy(pkt->source.bytes, &ip->saddr, sizeof(ip->saddr));
	__builtin_memcpy(pkt->destination.bytes, &ip->daddr, sizeof(ip->daddr));
	pkt->l4_protocol = ip->protocol;
	pkt->l4_offset = pkt->l3_offset + header_length;
	fragment = bpf_ntohs(ip->frag_off);
	pkt->fragment_id = ip->id;
	if (fragment & 0x1fff)
		pkt->fragment = FRAGMENT_LATER;
	else if (fragment & 0x2000)
		pkt->fragment = FRAGMENT_FIRST;
	return 0;
}

/*
 * Of an authentication header (AH) the protocol is AH's own, as in IPv4 and as ESP's: only who shares a key
 * with the sender takes what is behind it (RFC 4302, 3.4.2).
 */
static __always_inline int is_extension_header(__u8 protocol)
{
	const __u64 extension_headers = 1ULL << IPPROTO_HOPOPTS | 1ULL << IPPROTO_ROUTING |
					1ULL << IPPROTO_FRAGMENT | 1ULL << IPPROTO_DSTOPTS;

	return protocol < 64 && extension_headers >> protocol & 1;
}

/*
 * Moves l4_protocol and l4_offset over one extension header: 0, or a negative reason.
 *
 * A global function, so that the verifier walks a chain of headers as so many calls: inline, its
 * combinations were 45 of a program's 49 thousand instructions walked.
 */
__noinline int skip_extension_header(struct __sk_buff *skb, struct packet *pkt)
{
	struct ipv6_opt_hdr *option;
	struct frag_hdr *frag;

	if (!pkt)
		return -CM_DROP_INVALID_PACKET;
	if (pkt->l4_protocol == IPPROTO_FRAGMENT) {
		frag = ip_header_at(skb, pkt, pkt->l4_offset, sizeof(*frag));
		if (!frag)
			return -CM_DROP_INVALID_PACKET;
		/* Offset 0 without more to come: an atomic fragment (RFC 6946), a whole packet. */
		pkt->fragment_id = frag->identification;
		if (frag->frag_off & bpf_htons(0xfff8))
			pkt->fragment = FRAGMENT_LATER;
		else if (frag->frag_off & bpf_htons(1))
			pkt->fragment = FRAGMENT_FIRST;
		pkt->l4_protocol = frag->nexthdr;
		pkt->fragment_protocol = frag->nexthdr;
		pkt->l4_offset += sizeof(*frag);
		return 0;
	}
	option = ip_header_at(skb, pkt, pkt->l4_offset, sizeof(*option));
	if (!option)
		return -CM_DROP_INVALID_PACKET;
	pkt->l4_offset += (option->hdrlen + 1) * 8;
	pkt->l4_protocol = option->nexthdr;
	return 0;
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, struct packet *pkt)
{
	struct ipv6hdr *ip6 = ip_header_at(skb, pkt, pkt->l3_offset, sizeof(*ip6));
	int verdict;

	if (!ip6 || (ip6->version_class_label & bpf_htonl(0xf0000000)) != bpf_htonl(0x60000000))
		return -CM_DROP_INVALID_PACKET;

	set_end(skb, pkt, sizeof(*ip6), ip6->payload_len);
	pkt->source.family = CM_IPV6;
	pkt->destination.family = CM_IPV6;
	__builtin_memcpy(pkt->source.bytes, &ip6->saddr, sizeof(ip6->saddr));
	__builtin_memcpy(pkt->destination.bytes, &ip6->daddr, sizeof(ip6->daddr));
	pkt->l4_protocol = ip6->nexthdr;
	pkt->l4_offset = pkt->l3_offset + sizeof(*ip6);

	if (!is_extension_header(pkt->l4_protocol))
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		verdict = skip_extension_header(skb, pkt);
		if (verdict < 0)
			return verdict;
		if (pkt->fragment == FRAGMENT_LATER || !is_extension_header(pkt->l4_protocol))
			return 0;
	}
	return -CM_DROP_INVALID_EXTHDR;
}

static __always_inline int parse_arp(struct __sk_buff *skb, struct packet *pkt)
{
	struct arp_eth_ipv4 *arp = header_at(skb, pkt->l3_offset, sizeof(*arp));

	if (!arp || arp->ar_hrd != bpf_htons(ARPHRD_ETHER) || arp->ar_pro != bpf_htons(ETH_P_IP) ||
	    arp->ar_hln != ETH_ALEN || arp->ar_pln != sizeof(arp->ar_sip))
		return -CM_DROP_INVALID_PACKET;

	pkt->source.family = CM_IPV4;
	pkt->destination.family = CM_IPV4;
	__builtin_memcpy(pkt->source.bytes, arp->ar_sip, sizeof(arp->ar_sip));
	__builtin_memcpy(pkt->destination.bytes, arp->ar_tip, sizeof(arp->ar_tip));
	pkt->arp_operation = bpf_ntohs(arp->ar_op);
	return 0;
}

static __always_inline int is_vlan(__be16 ethertype)
{
	return ethertype == bpf_htons(ETH_P_8021Q) || ethertype == bpf_htons(ETH_P_8021AD);
}

/* A device without an Ethernet header hands over packets that start with the version nibble. */
static __always_inline int parse_l2(struct __sk_buff *skb, struct packet *pkt)
{
	struct ethhdr *eth;
	__u8 *version;

	if (config.l3_device) {
		version = header_at(skb, 0, sizeof(*version));
		if (!version)
			return -CM_DROP_UNSUPPORTED_L2;
		/* A tunnel's far end may say so, and the stack takes tags off without Ethernet, too. */
		if (is_vlan(skb->protocol))
			return -CM_DROP_UNKNOWN_L3;
		pkt->l3_offset = 0;
		pkt->ethertype = *version >> 4 == 4 ? bpf_htons(ETH_P_IP) :
				 *version >> 4 == 6 ? bpf_htons(ETH_P_IPV6) :
						      0;
		return 0;
	}
	eth = header_at(skb, 0, sizeof(*eth));
	if (!eth)
		return -CM_DROP_UNSUPPORTED_L2;
	pkt->l3_offset = sizeof(*eth);
	pkt->ethertype = eth->h_proto;
	return 0;
}

static __always_inline int skip_vlan_tags(struct __sk_buff *skb, struct packet *pkt)
{
	struct vlan_hdr *vlan;

#pragma clang loop unroll(full)
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		if (!is_vlan(pkt->ethertype))
			return 0;
		vlan = header_at(skb, pkt->l3_offset, sizeof(*vlan));
		if (!vlan)
			return -CM_DROP_INVALID_PACKET;
		pkt->l3_offset += sizeof(*vlan);
		pkt->ethertype = vlan->h_vlan_encapsulated_proto;
	}
	/* Of VLAN 0 the stack takes off however many there are. */
	return is_vlan(pkt->ethertype) ? -CM_DROP_UNKNOWN_L3 : 0;
}

static __always_inline int parse_headers(struct __sk_buff *skb, struct packet *pkt)
{
	int verdict = pkt->is_quoted ? 0 : parse_l2(skb, pkt);

	if (verdict == 0 && !config.l3_device) {
		verdict = skip_vlan_tags(skb, pkt);
		/* Read back from memory, the offset is one state to the verifier instead of three. */
		barrier();
	}
	if (verdict < 0)
		return verdict;
	pkt->fragment = FRAGMENT_NONE;
	if (!pkt->is_quoted)
		pkt->end = 0xffff; /* until the IP header tells */
	/* parse_plainly() may have left something; all else that it fills is filled below. */
	pkt->sport = 0;
	pkt->dport = 0;
	pkt->tcp_flags = 0;
	if (pkt->ethertype == bpf_htons(ETH_P_IP))
		verdict = parse_ipv4(skb, pkt);
	else if (pkt->ethertype == bpf_htons(ETH_P_IPV6))
		verdict = parse_ipv6(skb, pkt);
	else
		return !config.l3_device && pkt->ethertype == bpf_htons(ETH_P_ARP) ?
			       parse_arp(skb, pkt) :
			       0;
	if (verdict < 0)
		return verdict;
	/* Read back from memory, as above. */
	barrier();
	/* Nobody puts fragments together before they are parted again, where each would get a new offset. */
	if (pkt->fragment && skb->gso_size && !pkt->is_quoted)
		return -CM_DROP_INVALID_PACKET;
	return parse_l4(skb, pkt);
}

/*
 * A global function, because the verifier walks such a one by itself and once, and not its every
 * outcome through the rest of each program: with all of it inline, a program took 450 ms to load.
 */
__noinline int parse_thoroughly(struct __sk_buff *skb, struct packet *pkt)
{
	if (!pkt)
		return -CM_DROP_INVALID_PACKET;
	pkt->parse_error = parse_headers(skb, pkt);
	return pkt->parse_error;
}

/* The same, with headers outside the linear part pulled in once. */
static __always_inline int parse_again(struct __sk_buff *skb, struct packet *pkt)
{
	int verdict = parse_thoroughly(skb, pkt);

	if (verdict == 0 || skb->data_end - skb->data >= skb->len)
		return verdict;
	if (bpf_skb_pull_data(skb, skb->len < MAX_HEADER_BYTES ? skb->len : MAX_HEADER_BYTES))
		return verdict;
	return parse_thoroughly(skb, pkt);
}

/*
 * Whether it is what nearly every packet is, and read: TCP or UDP right behind an IP header without
 * options, no tag, no fragment, its header within the length that IP tells and in the linear part. All is in a fixed
 * place and hardly anything branches.
 */
static __always_inline int parse_plainly(struct __sk_buff *skb, struct packet *pkt)
{
	void *start = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = start;
	struct iphdr *ip = config.l3_device ? start : start + sizeof(*eth);
	struct ipv6hdr *ip6 = (void *)ip;
	struct udphdr *udp = (void *)(ip + 1);
	__u8 *flags;
	int length;

	if ((void *)(udp + 1) > end || (config.l3_device && is_vlan(skb->protocol)))
		return 0;
	if (ip->ihl_version == 0x45 && (config.l3_device || eth->h_proto == bpf_htons(ETH_P_IP))) {
		if (ip->frag_off & bpf_htons(0x3fff))
			return 0;
		length = bpf_ntohs(ip->tot_len) - (int)sizeof(*ip);
		pkt->l4_protocol = ip->protocol;
		pkt->ethertype = bpf_htons(ETH_P_IP);
		pkt->source.family = CM_IPV4;
		pkt->destination.family = CM_IPV4;
		__builtin_memcpy(pkt->source.bytes, &ip->saddr, sizeof(ip->saddr));
		__builtin_memcpy(pkt->destination.bytes, &ip->daddr, sizeof(ip->daddr));
	} else {
		udp = (void *)(ip6 + 1);
		if ((void *)(udp + 1) > end || ip->ihl_version >> 4 != 6 ||
		    !(config.l3_device || eth->h_proto == bpf_htons(ETH_P_IPV6)))
			return 0;
		length = bpf_ntohs(ip6->payload_len);
		pkt->l4_protocol = ip6->nexthdr;
		pkt->ethertype = bpf_htons(ETH_P_IPV6);
		pkt->source.family = CM_IPV6;
		pkt->destination.family = CM_IPV6;
		__builtin_memcpy(pkt->source.bytes, &ip6->saddr, sizeof(ip6->saddr));
		__builtin_memcpy(pkt->destination.bytes, &ip6->daddr, sizeof(ip6->daddr));
	}
	pkt->l3_offset = (void *)ip - start;
	pkt->l4_offset = (void *)udp - start;
	/* TCP has its ports there, too. */
	pkt->sport = udp->source;
	pkt->dport = udp->dest;
	/* Of UDP any byte, of which nothing is left. So both are one to the verifier from here. */
	flags = (__u8 *)udp;
	if (is_tcp(pkt)) {
		struct tcphdr *tcp = (void *)udp;

		if ((void *)(tcp + 1) > end)
			return 0;
		flags = &tcp->flags;
	} else if (pkt->l4_protocol != IPPROTO_UDP) {
		return 0;
	}
	pkt->tcp_flags = *flags & -is_tcp(pkt);
	return length >= 8 + 12 * is_tcp(pkt);
}

/*
 * Fills `pkt`, as packet_init() left it. 0, also for what is neither IP nor ARP (family 0), or a
 * negative reason.
 */
static __always_inline int parse_packet(struct __sk_buff *skb, struct packet *pkt)
{
	return parse_plainly(skb, pkt) ? 0 : parse_again(skb, pkt);
}

#endif
