/*
 * The shortcut at XDP on an uplink: rewrites the frame in place and redirects it to the host side
 * of a pod's veth, where it becomes a packet of the pod's.
 *
 * A wire carries finished packets, so all checksums are made here. Frames of several buffers, and
 * flows that are marked for it, are left to the TCX hook behind, which sees them merged.
 */
#pragma once

#include "offload.h"

/*
 * Whether XDP carries this flow's packet: OFFLOADED, TO_WORKER, or TO_KERNEL for the TCX hook,
 * which must then be able to: it cuts no trailer.
 */
static __always_inline __u32 admit_xdp(const struct flow *flow, const struct frame *frame,
				       const struct l4 *l4, const struct config *config)
{
	if (!flow || flow->epoch != config->epoch || flow->out != OUT_POD ||
	    frame->length - ETH_HLEN > flow->mtu)
		return TO_WORKER;
	if (!flow->in_xdp)
		return l4->trailer ? TO_WORKER : TO_KERNEL;
	return frame->data + frame->length == frame->data_end ? OFFLOADED : TO_WORKER;
}

/* Cuts what lies behind the IP packet; the last thing done, since all pointers end with it. */
static __always_inline __u32 cut_trailer(struct xdp_md *xdp, __u16 trailer)
{
	if (trailer && bpf_xdp_adjust_tail(xdp, -(int)trailer))
		return DROP(DROP_HOOK_REWRITE);
	return OFFLOADED;
}

static __always_inline void set_macs(struct ethhdr *eth, const struct flow *flow)
{
	__builtin_memcpy(eth->h_dest, flow->destination_mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, flow->source_mac, ETH_ALEN);
}

/* Puts the pod's address and port in place of the destination's. */
static __always_inline void to_destination(struct iphdr *ip, __u16 *check, __be16 *port,
					   const struct flow *flow, const struct l4 *l4)
{
	__u16 mended = *check;

	if (l4->protocol != IPPROTO_ICMP)
		mended = checksum_after(mended, ip->daddr, flow->address);
	mended = checksum_after(mended, *port, flow->port);
	if (l4->protocol == IPPROTO_UDP)
		/* RFC 768: zero says there is none, and stays so. */
		mended = !*check ? 0 : mended ? mended : 0xffff;
	*check = mended;
	*port = flow->port;
	ip->daddr = flow->address;
}

static __always_inline __u32 offload_xdp4(struct xdp_md *xdp, const struct frame *frame,
					  struct iphdr *ip, const struct config *config,
					  int *action)
{
	struct ethhdr *eth = frame->data;
	struct flow_key4 key;
	struct flow *flow;
	struct l4 l4;
	__u32 outcome;
	__be16 *port;
	__u16 *check;

	if (!config->offload || !flow_key4_of(frame, ip, ZONE_UPLINKS, &key, &l4))
		return TO_WORKER;
	flow = bpf_map_lookup_elem(&flows4, &key);
	outcome = admit_xdp(flow, frame, &l4, config);
	if (!flow || outcome != OFFLOADED)
		return outcome;
	check = frame->data + L4_OFFSET + l4.checksum_at;
	port = frame->data + L4_OFFSET + (l4.id_at ? l4.id_at : sizeof(*port));
	if ((void *)(eth + 1) > frame->data_end || (void *)(check + 1) > frame->data_end ||
	    (void *)(port + 1) > frame->data_end)
		return TO_WORKER;
	*action = bpf_redirect_map(&pod_devices, flow->ifindex, XDP_PASS);
	if (*action != XDP_REDIRECT)
		return TO_WORKER;
	if (flow->rewrite == REWRITE_DESTINATION)
		to_destination(ip, check, port, flow, &l4);
	ip->ttl--;
	ip->check = 0;
	ip->check = ~ip4_sum(ip);
	set_macs(eth, flow);
	note_use(flow, 1, frame->length);
	return cut_trailer(xdp, l4.trailer);
}

static __always_inline __u32 offload_xdp6(struct xdp_md *xdp, const struct frame *frame,
					  struct ipv6hdr *ip, const struct config *config,
					  int *action)
{
	struct ethhdr *eth = frame->data;
	struct flow_key6 key;
	struct flow *flow;
	struct l4 l4;
	__u32 outcome;

	if (!config->offload || !flow_key6_of(frame, ip, ZONE_UPLINKS, &key, &l4))
		return TO_WORKER;
	flow = bpf_map_lookup_elem(&flows6, &key);
	outcome = admit_xdp(flow, frame, &l4, config);
	if (!flow || outcome != OFFLOADED || (void *)(eth + 1) > frame->data_end)
		return outcome;
	*action = bpf_redirect_map(&pod_devices, flow->ifindex, XDP_PASS);
	if (*action != XDP_REDIRECT)
		return TO_WORKER;
	ip->hop_limit--;
	set_macs(eth, flow);
	note_use(flow, 1, frame->length);
	return cut_trailer(xdp, l4.trailer);
}
