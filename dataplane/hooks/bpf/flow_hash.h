/*
 * The flow hash that decides which worker owns a flow.
 *
 * Bit-identical to penstock_packet::hash and symmetric: both directions of an
 * untranslated flow agree. All values are host-order integers. It spreads load and is not
 * seeded: nothing here may index a table by it.
 */
#pragma once

#include <bpf/bpf_endian.h>

#include "maps.h"

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

static __always_inline __u32 fold6(const struct address6 *a)
{
	return bpf_ntohl(a->word[0] ^ a->word[1] ^ a->word[2] ^ a->word[3]);
}

static __always_inline __u32 flow_hash6(const struct address6 *src, const struct address6 *dst,
					__u16 sport, __u16 dport, __u8 protocol)
{
	return flow_hash(fold6(src), fold6(dst), sport, dport, protocol);
}

static __always_inline __u32 flow_queue(__u32 hash, __u32 queues)
{
	return (__u64)hash * queues >> 32;
}
