/*
 * Hook `pod`, IPv6: which of a pod's packets are its own, which are the kernel's.
 *
 * A pod may send from its address and from link-local ones. The latter never travel: they are the
 * kernel's. So is neighbour discovery about the pod itself, and nothing else of that kind: a pod
 * is no router (CVE-2020-10749), no neighbour but itself, and cannot hide such claims behind
 * extension headers or in fragments (RFC 6980, RFC 7113).
 */
#pragma once

#include "parse6.h"

/* Longest run of headers this looks at, options of neighbour discovery included. */
#define HEADER6_BYTES_MAX                                                                          \
	(UPPER6_OFFSET + IP6_CHAIN_BYTES_MAX + sizeof(struct nd_message) + 8 * ND_OPTIONS_MAX)

/* Instance metadata service, fd00:ec2::254. */
static __always_inline int is_imds6(const struct address6 *a)
{
	return a->word[0] == bpf_htonl(0xfd000ec2) && !a->word[1] && !a->word[2] &&
	       a->word[3] == bpf_htonl(0x254);
}

/* Whether every link-layer address among the options from `at` on is the pod's own. */
static __always_inline int nd_options_are_own(const struct frame *frame, const struct ipv6hdr *ip,
					      __u32 at, const struct endpoint *pod)
{
	__u32 end = bpf_ntohs(ip->payload_len);
	struct nd_option *option;
	int i;

	for (i = 0; i < ND_OPTIONS_MAX && at < end; i++) {
		if (at > IP6_CHAIN_BYTES_MAX)
			return 0;
		option = frame->data + UPPER6_OFFSET + at;
		if ((void *)(option + 1) > frame->data_end || !option->length)
			return 0;
		if ((option->type == ND_OPTION_SOURCE_MAC || option->type == ND_OPTION_TARGET_MAC) &&
		    (option->length != 1 || !mac_equal(option->mac, pod->pod_mac)))
			return 0;
		at += option->length * 8;
	}
	return at == end;
}

/* Whether a solicitation or advertisement claims and asks nothing it may not. */
static __always_inline int nd_is_own(const struct frame *frame, const struct ipv6hdr *ip,
				     const struct endpoint *pod)
{
	struct nd_message *nd = frame->data + UPPER6_OFFSET;
	struct address6 target;
	int own;

	if ((void *)(nd + 1) > frame->data_end)
		return 0;
	target = nd->target;
	own = same6(&target, &pod->address6) || is_link_local6(&target);
	if (is_unspecified6(source6(ip))) {
		/* Duplicate address detection, RFC 4862 5.4.2. */
		if (!own || nd->type != ICMP6_NEIGHBOR_SOLICITATION ||
		    !is_solicited_node(destination6(ip), &target))
			return 0;
	} else if (!own &&
		   (nd->type != ICMP6_NEIGHBOR_SOLICITATION || !is_kernel_address6(&target))) {
		return 0;
	}
	return nd_options_are_own(frame, ip, sizeof(*nd), pod);
}

/* TO_WORKER when this is no neighbour discovery, nor multicast listening of the pod's own. */
static __always_inline __u32 guard_icmp6(const struct frame *frame, const struct ipv6hdr *ip,
					 const struct upper *upper, const struct endpoint *pod)
{
	__u8 type = icmp6_type(frame, upper);

	if (type == ICMP6_ROUTER_ADVERTISEMENT || type == ICMP6_REDIRECT)
		return DROP(DROP_SPOOF_RA);
	if (is_nd(type)) {
		if (ip->hop_limit != ND_HOP_LIMIT || upper->extended)
			return DROP(DROP_SPOOF_ND);
		if (type == ICMP6_ROUTER_SOLICITATION)
			return nd_options_are_own(frame, ip, UDP_HEADER_BYTES, pod)
				       ? TO_KERNEL
				       : DROP(DROP_SPOOF_ND);
		return nd_is_own(frame, ip, pod) ? TO_KERNEL : DROP(DROP_SPOOF_ND);
	}
	if ((type == ICMP6_MLD_REPORT || type == ICMP6_MLD_DONE || type == ICMP6_MLD2_REPORT) &&
	    is_multicast6(destination6(ip)))
		return TO_KERNEL;
	return TO_WORKER;
}

/* TO_WORKER when the destination is for the workers to decide. */
static __always_inline __u32 classify_destination6(const struct address6 *address)
{
	if (is_multicast6(address))
		return DROP(DROP_MCAST);
	if (is_martian6(address))
		return DROP(DROP_MARTIAN_DST);
	return is_link_local6(address) || is_kernel_address6(address) ? TO_KERNEL : TO_WORKER;
}

/* TO_WORKER when the pod may send from this address; `::` only for discovery about itself. */
static __always_inline __u32 guard_source6(const struct frame *frame, const struct ipv6hdr *ip,
					   __u32 kind, const struct upper *upper,
					   const struct endpoint *pod)
{
	const struct address6 *source = source6(ip);
	__u32 outcome;

	if (is_unspecified6(source)) {
		outcome = kind == KIND_PLAIN ? guard_icmp6(frame, ip, upper, pod) : TO_WORKER;
		return outcome == TO_WORKER ? DROP(DROP_MARTIAN_SRC) : outcome;
	}
	if (is_martian6(source) || is_multicast6(source))
		return DROP(DROP_MARTIAN_SRC);
	return same6(source, &pod->address6) || is_link_local6(source) ? TO_WORKER
								       : DROP(DROP_SPOOF_IP);
}

static __always_inline __u32 steer6(struct __sk_buff *skb, const struct frame *frame,
				    const struct ipv6hdr *ip, __u32 kind, const struct upper *upper,
				    const struct config *config)
{
	__u8 protocol = kind == KIND_FRAGMENT ? upper->datagram : upper->protocol;
	__u16 sport = 0, dport = 0;

	if (kind == KIND_PLAIN)
		l4_ports6(frame, upper, &sport, &dport);
	return steer(skb, flow_hash6(source6(ip), destination6(ip), sport, dport, protocol), config);
}

static __always_inline __u32 classify_ip6(struct __sk_buff *skb, struct frame *frame,
					  const struct endpoint *pod, const struct config *config,
					  int *action)
{
	struct ipv6hdr *ip = ip6_header(frame);
	struct upper upper;
	__u32 kind, outcome;

	if (is_unspecified6(&pod->address6))
		return DROP(DROP_IP6_DISABLED);
	if (ip && ip->nexthdr != IPPROTO_TCP && ip->nexthdr != IPPROTO_UDP) {
		pull_headers(skb, HEADER6_BYTES_MAX);
		*frame = frame_of(skb);
		ip = ip6_header(frame);
	}
	if (!ip)
		return steer(skb, 0, config);
	kind = ip6_kind(frame, ip, &upper);
	outcome = guard_source6(frame, ip, kind, &upper, pod);
	if (outcome != TO_WORKER)
		return outcome;
	if (kind >= OUTCOME_DROP)
		return kind;
	if (kind == KIND_WORKER)
		return steer(skb, 0, config);
	if (kind == KIND_PLAIN && !upper.extended && config->offload &&
	    guard_link_destination(frame, pod) == TO_WORKER) {
		outcome = offload_skb6(skb, frame, ip, ZONE_PODS, config, 0, action);
		if (outcome != TO_WORKER)
			return outcome;
	}
	if (is_imds6(destination6(ip)))
		return config->imds_allowed ? TO_KERNEL : DROP(DROP_IMDS);
	outcome = guard_icmp6(frame, ip, &upper, pod);
	if (outcome == TO_WORKER)
		outcome = classify_destination6(destination6(ip));
	if (outcome == TO_KERNEL && kind == KIND_PLAIN && !upper.extended)
		note_source6(frame, ip);
	if (outcome != TO_WORKER)
		return outcome;
	if (is_link_local6(source6(ip)))
		return TO_KERNEL;
	outcome = guard_link_destination(frame, pod);
	if (outcome == TO_WORKER && kind == KIND_PLAIN && !upper.extended &&
	    is_kernels6(&(struct context){ .skb = skb }, frame, ip))
		return TO_KERNEL;
	return outcome == TO_WORKER ? steer6(skb, frame, ip, kind, &upper, config) : outcome;
}
