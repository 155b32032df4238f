/*
 * Hook `uplink`: XDP on an ENI. Everything the wire brings comes here.
 *
 * Takes what is for pods or for the SNAT range, and what must be dropped by name; the node's own
 * traffic and options stay with the kernel. Fragments for pods or for the SNAT address are the
 * workers', who follow datagrams and give back those that are not ours. A queue without a worker, or whose worker
 * is away, passes to the kernel.
 */
#include "conntrack.h"
#include "heartbeat.h"
#include "offload_xdp.h"
#include "uplink6.h"

#define ICMP_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12

static __always_inline int in_snat_range(__be16 port, const struct config *config)
{
	__u16 host = bpf_ntohs(port);

	return host >= config->port_first && host <= config->port_last;
}

/* Fragments have no ports to go by: with translation, all to its address are the workers'. */
static __always_inline int has_snat(const struct config *config)
{
	return config->port_first <= config->port_last;
}

/* An ICMP error about a packet we translated quotes our address and port as its source. */
static __always_inline int quotes_snat(const struct frame *frame, const struct config *config)
{
	struct iphdr *inner = frame->data + L4_OFFSET + 8;
	__u8 *l4;

	if ((void *)(inner + 1) > frame->data_end)
		return 0;
	if (inner->version != 4 || inner->ihl < 5 || inner->saddr != config->snat_address)
		return 0;
	l4 = (void *)inner + inner->ihl * 4;
	if ((void *)(l4 + 8) > frame->data_end)
		return 0;
	if (inner->protocol == IPPROTO_TCP || inner->protocol == IPPROTO_UDP)
		return in_snat_range(*(__be16 *)l4, config);
	return inner->protocol == IPPROTO_ICMP && l4[0] == ICMP_ECHO_REQUEST &&
	       in_snat_range(*(__be16 *)(l4 + 4), config);
}

/* Whether a whole packet to the SNAT address is an answer to a translated flow. */
static __always_inline int is_snat_reply(const struct frame *frame, __u8 protocol,
					 const struct config *config)
{
	__be16 *ports = frame->data + L4_OFFSET;
	__u8 *icmp = frame->data + L4_OFFSET;

	if ((void *)(icmp + 8) > frame->data_end)
		return 0;
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP)
		return in_snat_range(ports[1], config);
	if (protocol != IPPROTO_ICMP)
		return 0;
	if (icmp[0] == ICMP_ECHO_REPLY)
		return in_snat_range(ports[2], config);
	if (icmp[0] == ICMP_UNREACHABLE || icmp[0] == ICMP_TIME_EXCEEDED ||
	    icmp[0] == ICMP_PARAMETER_PROBLEM)
		return quotes_snat(frame, config);
	return 0;
}

static __always_inline __u32 classify_local(struct xdp_md *xdp, const struct frame *frame,
					    struct iphdr *ip, const struct config *config,
					    int *action)
{
	__u32 kind = ip4_kind(frame, ip), outcome;

	if (is_martian_source(ip->saddr))
		return DROP(DROP_MARTIAN_SRC);
	if (is_martian_destination(ip->daddr))
		return DROP(DROP_MARTIAN_DST);
	if (kind >= OUTCOME_DROP)
		return kind;
	if (kind == KIND_WORKER)
		return TO_WORKER;
	if (kind == KIND_PLAIN) {
		outcome = offload_xdp4(xdp, frame, ip, config, action);
		if (outcome != TO_WORKER)
			return outcome;
	}
	if (is_multicast(ip->daddr) || is_broadcast(ip->daddr) || kind == KIND_OPTIONS)
		return TO_KERNEL;
	if (pod_at(ip->daddr))
		return kind == KIND_PLAIN &&
				       is_kernels4(&(struct context){ .xdp = xdp }, frame, ip)
			       ? TO_KERNEL
			       : TO_WORKER;
	if (ip->daddr == config->snat_address &&
	    (kind == KIND_FRAGMENT ? has_snat(config) : is_snat_reply(frame, ip->protocol, config)))
		return TO_WORKER;
	if (ip->daddr != config->snat_address && !is_kernel_address(ip->daddr))
		return TO_WORKER;
	if (kind == KIND_PLAIN)
		note_source4(frame, ip);
	return TO_KERNEL;
}

/* TO_WORKER for what a worker forwards or names. */
static __always_inline __u32 classify_uplink(struct xdp_md *xdp, const struct frame *frame,
					     const struct uplink *uplink,
					     const struct config *config, int *action)
{
	struct ethhdr *eth = ethernet(frame);
	struct iphdr *ip;

	if (!eth)
		return DROP(DROP_L2_SHORT);
	if (mac_is_zero(eth->h_source) || mac_is_group(eth->h_source))
		return DROP(DROP_L2_SRC_BAD);
	if (eth->h_proto == bpf_htons(ETH_P_ARP) && !arp_message(frame))
		return DROP(DROP_ARP_BAD);
	if ((eth->h_proto != bpf_htons(ETH_P_IP) && eth->h_proto != bpf_htons(ETH_P_IPV6)) ||
	    mac_is_group(eth->h_dest))
		return TO_KERNEL;
	if (!mac_equal(eth->h_dest, uplink->mac))
		return TO_WORKER;
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return classify_frame6(xdp, frame, config, action);
	ip = ip4_header(frame);
	return ip ? classify_local(xdp, frame, ip, config, action) : TO_WORKER;
}

static __always_inline __u32 decide_uplink(struct xdp_md *xdp, const struct config *config,
					   const struct uplink *uplink, int *action)
{
	struct frame frame = {
		.data = (void *)(long)xdp->data,
		.data_end = (void *)(long)xdp->data_end,
		.length = bpf_xdp_get_buff_len(xdp),
	};
	__u32 workers = config->workers;
	__u32 outcome;

	if (!workers)
		return FALLBACK;
	outcome = classify_uplink(xdp, &frame, uplink, config, action);
	if (outcome != TO_WORKER)
		return outcome;
	return worker_is_alive(xdp->rx_queue_index % workers, config->stale_ns) ? TO_WORKER
										: FALLBACK;
}

SEC("xdp.frags")
int uplink(struct xdp_md *xdp)
{
	__u32 ifindex = xdp->ingress_ifindex, queue = xdp->rx_queue_index;
	struct config *config = configuration();
	struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &ifindex);
	__u32 outcome = FALLBACK, bytes = bpf_xdp_get_buff_len(xdp);
	int action = XDP_PASS;

	if (config && uplink && queue < MAX_QUEUES)
		outcome = decide_uplink(xdp, config, uplink, &action);
	if (outcome == TO_WORKER && uplink) {
		action = bpf_redirect_map(&xsks, uplink->slot * MAX_QUEUES + queue, XDP_PASS);
		settle(HOOK_UPLINK, action == XDP_REDIRECT ? TO_WORKER : FALLBACK, 1, bytes);
		return action;
	}
	settle(HOOK_UPLINK, outcome, 1, bytes);
	if (outcome == OFFLOADED)
		return action;
	return outcome < OUTCOME_DROP ? XDP_PASS : XDP_DROP;
}
