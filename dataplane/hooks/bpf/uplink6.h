/*
 * Hook `uplink`, IPv6: pods' packets are the workers', the node's and all discovery the kernel's.
 *
 * A node without an IPv6 address of its own gets everything that is not for a pod: nobody has told
 * us what is its.
 */
#pragma once

#include "conntrack.h"
#include "offload_xdp.h"

/* What of this is never a worker's, whoever it is for. */
static __always_inline int is_for_kernel6(const struct frame *frame, const struct ipv6hdr *ip,
					  const struct upper *upper)
{
	if (is_multicast6(destination6(ip)) || is_link_local6(destination6(ip)) ||
	    is_link_local6(source6(ip)))
		return 1;
	return is_nd(icmp6_type(frame, upper)) && ip->hop_limit == ND_HOP_LIMIT;
}

static __always_inline __u32 classify_local6(struct xdp_md *xdp, const struct frame *frame,
					     struct ipv6hdr *ip, const struct config *config,
					     int *action)
{
	const struct address6 *source = source6(ip), *destination = destination6(ip);
	int for_pod = pod_at6(destination) != 0;
	struct upper upper;
	__u32 kind, outcome;
	int plain;

	if (!for_pod && is_unspecified6(&config->node6))
		return TO_KERNEL;
	if (is_martian6(source) || is_multicast6(source))
		return DROP(DROP_MARTIAN_SRC);
	if (is_martian6(destination))
		return DROP(DROP_MARTIAN_DST);
	kind = ip6_kind(frame, ip, &upper);
	if (kind >= OUTCOME_DROP)
		return kind;
	if (kind == KIND_WORKER)
		return TO_WORKER;
	plain = kind == KIND_PLAIN && !upper.extended;
	if (plain) {
		outcome = offload_xdp6(xdp, frame, ip, config, action);
		if (outcome != TO_WORKER)
			return outcome;
	}
	if (is_for_kernel6(frame, ip, &upper))
		return TO_KERNEL;
	if (for_pod)
		return plain && is_kernels6(&(struct context){ .xdp = xdp }, frame, ip) ? TO_KERNEL
											: TO_WORKER;
	if (!same6(destination, &config->node6) && !is_kernel_address6(destination))
		return TO_WORKER;
	if (plain)
		note_source6(frame, ip);
	return TO_KERNEL;
}

static __always_inline __u32 classify_frame6(struct xdp_md *xdp, const struct frame *frame,
					     const struct config *config, int *action)
{
	struct ipv6hdr *ip = ip6_header(frame);

	if (ip)
		return classify_local6(xdp, frame, ip, config, action);
	return is_unspecified6(&config->node6) ? TO_KERNEL : TO_WORKER;
}
