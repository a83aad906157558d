/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Numeric identities: which are reserved, and how many bits fit where. */
#ifndef CILMARK_IDENTITY_H
#define CILMARK_IDENTITY_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

/* Cilium's reserved identities (pkg/identity/numericidentity.go). */
enum {
	IDENTITY_UNKNOWN = 0,
	IDENTITY_HOST = 1,
	IDENTITY_WORLD = 2,
	IDENTITY_REMOTE_NODE = 6,
	IDENTITY_KUBE_APISERVER = 7,
	IDENTITY_WORLD_IPV4 = 9,
	IDENTITY_WORLD_IPV6 = 10,
	IDENTITY_STAMPABLE_MAX = 0xffffff, /* what fits into a mark */
	IDENTITY_FLOW_LABEL_MAX = 0xfffff, /* what fits into a flow label */
};

/* A mark with one of these says less than the ipcache may know about the address. */
static __always_inline int identity_is_reserved(__u32 identity)
{
	const __u32 reserved = 1U << IDENTITY_UNKNOWN | 1U << IDENTITY_HOST | 1U << IDENTITY_WORLD |
			       1U << IDENTITY_REMOTE_NODE | 1U << IDENTITY_KUBE_APISERVER |
			       1U << IDENTITY_WORLD_IPV4 | 1U << IDENTITY_WORLD_IPV6;

	return identity < 32 && reserved >> identity & 1;
}

#endif
