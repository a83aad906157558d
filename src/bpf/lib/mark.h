/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * skb->mark, shared with everybody else on the host, and beside it the proof that it is ours. Nobody but
 * this header touches them.
 *
 *   31 ................ 16 15 .. 12 11 ... 8 7 .......... 0
 *   identity, low 16 bits   not ours  magic   identity, high 8
 *
 * Bits 12 to 15 belong to IPsec key indices and to Kubernetes and are written by mark_replace() alone. The magics
 * are Cilium's (bpf/lib/common.h). Any other value there makes it somebody else's mark.
 */
#ifndef CILMARK_MARK_H
#define CILMARK_MARK_H

#include "vmlinux.h"
#include "identity.h"

enum {
	MARK_NOT_OURS = 0xf000,
	MARK_MAGIC_MASK = 0x0f00,
	MARK_MAGIC_TO_PROXY = 0x0200,
	MARK_MAGIC_PROXY_INGRESS = 0x0a00,
	MARK_MAGIC_PROXY_EGRESS = 0x0b00,
	MARK_MAGIC_HOST = 0x0c00,
	MARK_MAGIC_DECRYPT = 0x0d00,
	MARK_MAGIC_ENCRYPT = 0x0e00,
	MARK_MAGIC_IDENTITY = 0x0f00,
	/*
	 * In the upper half of skb->tc_index; into the lower one Cilium's programs may write, if they come later.
	 * SO_MARK takes CAP_NET_RAW only, and a mark survives a veth within the host; this word no socket can
	 * set, and it goes the same ways.
	 */
	MARK_PROOF = 0xc100,
	MARK_PROOF_MASK = 0xfd00,
	/* Beside the proof: local delivery brings the packet, or has left it to the stack for its size only. */
	MARK_PAST_STACK = 0x0200,
};

static __always_inline __u32 mark_get(const struct __sk_buff *skb)
{
	return skb->mark;
}

static __always_inline __u32 mark_magic(__u32 mark)
{
	return mark & MARK_MAGIC_MASK;
}

static __always_inline __u32 mark_identity(__u32 mark)
{
	return (mark & 0xff) << 16 | mark >> 16;
}

/*
 * Sets of magics are masks with one bit for each value of bits 8 to 11: a test without branches,
 * of which the verifier would walk each.
 */
#define MAGIC_BIT(magic) (1U << ((magic) >> 8))

static __always_inline int mark_has_magic(__u32 mark, __u32 magics)
{
	return magics >> (mark_magic(mark) >> 8) & 1;
}

/* Nobody's identity ends in 16 zeros: such a mark is another software's, as wg-quick's 0xca6c. */
static __always_inline int mark_is_proxy(__u32 mark)
{
	return mark_has_magic(mark, MAGIC_BIT(MARK_MAGIC_PROXY_INGRESS) |
					    MAGIC_BIT(MARK_MAGIC_PROXY_EGRESS)) &&
	       mark >> 16;
}

/* What claims to know who sent the packet: believed from this host, never from a wire. */
static __always_inline int mark_names_sender(__u32 mark)
{
	return mark_has_magic(
		mark, MAGIC_BIT(MARK_MAGIC_PROXY_INGRESS) | MAGIC_BIT(MARK_MAGIC_PROXY_EGRESS) |
			      MAGIC_BIT(MARK_MAGIC_HOST) | MAGIC_BIT(MARK_MAGIC_IDENTITY));
}

static __always_inline int mark_is_ours(__u32 mark)
{
	return mark_names_sender(mark) ||
	       mark_has_magic(mark, MAGIC_BIT(MARK_MAGIC_TO_PROXY) | MAGIC_BIT(MARK_MAGIC_DECRYPT) |
					    MAGIC_BIT(MARK_MAGIC_ENCRYPT));
}

/* Nobody has written anything there, neither we nor another program. */
static __always_inline int mark_is_free(const struct __sk_buff *skb)
{
	return !(skb->mark & ~MARK_NOT_OURS);
}

/*
 * Whether one of our own programs has written the mark, on this packet's way through this host. It says nothing where
 * there is no such mark any more: no namespace clears the proof, and a container may have set it for its own packets.
 */
static __always_inline int mark_is_proven(const struct __sk_buff *skb)
{
	return (skb->tc_index & MARK_PROOF_MASK) == MARK_PROOF;
}

/* Whether it is certainly that of an identity. */
static __always_inline int mark_is_of(const struct __sk_buff *skb, __u32 mark, __u32 identity)
{
	return mark_is_proven(skb) && mark_magic(mark) == MARK_MAGIC_IDENTITY &&
	       mark_identity(mark) == identity;
}

/* What else stood there is the sender's, and gone. */
static __always_inline void mark_set_proof(struct __sk_buff *skb)
{
	skb->tc_index = MARK_PROOF;
}

static __always_inline int mark_is_past_stack(const struct __sk_buff *skb)
{
	return skb->tc_index & MARK_PAST_STACK;
}

static __always_inline void mark_set_past_stack(struct __sk_buff *skb)
{
	if (mark_is_proven(skb))
		skb->tc_index = MARK_PROOF | MARK_PAST_STACK;
}

static __always_inline void mark_set_identity(struct __sk_buff *skb, __u32 identity)
{
	skb->mark = (skb->mark & MARK_NOT_OURS) | (identity & 0xffff) << 16 | MARK_MAGIC_IDENTITY |
		    (identity >> 16 & 0xff);
}

static __always_inline void mark_set_if_it_fits(struct __sk_buff *skb, __u32 identity)
{
	if (identity > IDENTITY_STAMPABLE_MAX)
		return;
	mark_set_identity(skb, identity);
	mark_set_proof(skb);
}

/*
 * In the place of another software's mark. One that looks like ours is all of it that software's (wg-quick's 0xca6c);
 * of any other, bits 12 to 15 may be Kubernetes'.
 */
static __always_inline void mark_replace(struct __sk_buff *skb, __u32 identity)
{
	if (mark_is_ours(skb->mark))
		skb->mark = 0;
	mark_set_if_it_fits(skb, identity);
}

/* For a packet that is dropped: the mark that it came with. */
static __always_inline void mark_put_back(struct __sk_buff *skb, __u32 mark)
{
	skb->mark = mark;
}

static __always_inline void mark_clear(struct __sk_buff *skb)
{
	skb->mark &= MARK_NOT_OURS;
}

#endif
