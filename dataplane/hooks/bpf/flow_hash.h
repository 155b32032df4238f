/*
 * The flow hash that decides which worker owns a flow.
 *
 * Bit-identical to penstock_packet::hash::flow_hash and symmetric: both directions of an
 * untranslated flow agree. All values are host-order integers. It spreads load and is not
 * seeded: nothing here may index a table by it.
 */
#pragma once

#include <linux/types.h>

static __always_inline __u32 flow_hash(__u32 src, __u32 dst, __u16 sport, __u16 dport,
				       __u8 protocol)
{
	__u32 hash = src ^ dst;

	hash ^= (__u32)(sport ^ dport) << 16 | protocol;
	hash *= 0x9E3779B1;
	hash ^= hash >> 15;
	hash *= 0x85EBCA77;
	return hash ^ (hash >> 13);
}

static __always_inline __u32 flow_queue(__u32 hash, __u32 queues)
{
	return (__u64)hash * queues >> 32;
}
