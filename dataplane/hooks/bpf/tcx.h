/*
 * What the TCX programs share: verdicts and packet counts of an skb.
 */
#pragma once

#include <linux/if_packet.h>

#include "parse.h"

/* uapi enum tcx_action_base (kernel 6.6); older headers do not have it. */
#define TCX_NEXT (-1)
#define TCX_DROP 2

/* Longest run of headers a TCX program looks at: Ethernet, IPv4 with options, 8 bytes of
 * L4; or IPv6 and TCP's. IPv6 with more than that asks for more. */
#define HEADER_BYTES_MAX (ETH_HLEN + 60 + 8)

/* Packets an skb stands for: the kernel segments it on the trunk. */
static __always_inline __u32 packets_of(const struct __sk_buff *skb)
{
	return skb->gso_segs > 1 ? skb->gso_segs : 1;
}

static __always_inline struct frame frame_of(const struct __sk_buff *skb)
{
	struct frame frame = {
		.data = (void *)(long)skb->data,
		.data_end = (void *)(long)skb->data_end,
		.length = skb->len,
	};
	return frame;
}

/*
 * Makes the first `most` bytes readable in place. An skb's linear part may be shorter than its
 * headers; asking only then spares every other packet a copy of a cloned skb.
 */
static __always_inline void pull_headers(struct __sk_buff *skb, __u32 most)
{
	__u32 want = skb->len < most ? skb->len : most;

	if ((long)skb->data + want > (long)skb->data_end)
		bpf_skb_pull_data(skb, want);
}
