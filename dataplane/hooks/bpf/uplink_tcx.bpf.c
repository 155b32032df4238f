/*
 * Hook `uplink-tcx`: TCX ingress on an ENI. Everything that hook `uplink` left to the kernel comes
 * here, segments of a stream merged by GRO.
 *
 * Carries offloaded flows into pods, past the host's stack; the rest goes on to it. What hook
 * `uplink` left for this one a moment ago must not become the stack's because a snapshot or the
 * switch came between: the stack, which knows no such connection, would reset it. So entries of
 * the epoch before still count here, and the switch does not.
 */
#include "offload_skb.h"

static __always_inline __u32 decide_uplink_tcx(struct __sk_buff *skb, const struct config *config,
					       int *action)
{
	__u32 ifindex = skb->ifindex;
	struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &ifindex);
	struct frame frame;
	struct ethhdr *eth;
	struct iphdr *ip;
	struct ipv6hdr *ip6;

	if (!uplink || skb->vlan_present)
		return TO_WORKER;
	pull_headers(skb, HEADER_BYTES_MAX);
	frame = frame_of(skb);
	eth = ethernet(&frame);
	if (!eth || !mac_equal(eth->h_dest, uplink->mac))
		return TO_WORKER;
	ip = ip4_header(&frame);
	if (ip && eth->h_proto == bpf_htons(ETH_P_IP) && ip4_kind(&frame, ip) == KIND_PLAIN)
		return offload_skb4(skb, &frame, ip, ZONE_UPLINKS, config, GRACE_EPOCHS, action);
	ip6 = ip6_header(&frame);
	if (ip6 && eth->h_proto == bpf_htons(ETH_P_IPV6))
		return offload_skb6(skb, &frame, ip6, ZONE_UPLINKS, config, GRACE_EPOCHS, action);
	return TO_WORKER;
}

SEC("tcx/ingress")
int uplink_tcx(struct __sk_buff *skb)
{
	struct config *config = configuration();
	__u32 packets = packets_of(skb), bytes = skb->len, outcome = TO_KERNEL;
	int action = TCX_NEXT;

	if (config)
		outcome = decide_uplink_tcx(skb, config, &action);
	/* Workers get nothing from here: what takes no shortcut was the kernel's already. */
	if (outcome == TO_WORKER)
		outcome = TO_KERNEL;
	settle(HOOK_UPLINK_TCX, outcome, packets, bytes);
	if (outcome >= OUTCOME_DROP)
		return TCX_DROP;
	return outcome == OFFLOADED ? action : TCX_NEXT;
}
