/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What an endpoint was loaded with, and the words that are written while it runs. */
#ifndef CILMARK_CONFIG_H
#define CILMARK_CONFIG_H

#include "abi/config.h"
#include <bpf/bpf_helpers.h>

/*
 * The only constant of the object, so that .rodata is exactly this struct. Volatile: the compiler
 * must not fold the zeros of the template; fold.rs folds the values that were written.
 */
const volatile struct cm_config config;

/*
 * Forwarded packets are reported until this moment, CLOCK_MONOTONIC in ns. A reader of traces
 * renews it, so that tracing ends by itself when the reader dies.
 */
volatile __u64 trace_until_ns;

/*
 * A command that may cut its user off starts this clock, and `confirm` stops it: if nobody is left
 * to confirm, the datapath falls back by itself. That of a NIC stands in cm_nics.
 */
volatile struct cm_confirm confirm;

static __always_inline int configured(void)
{
	return config.endpoint_id != 0;
}

#endif
