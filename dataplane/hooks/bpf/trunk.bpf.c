/*
 * Hook `trunk`: TCX ingress on trunk0. Everything the workers send through the trunk comes here.
 *
 * Delivers to the pod that owns the destination, past the host's stack, and leaves everything
 * else to the kernel: that is how workers punt.
 */
#include "conntrack.h"
#include "tcx.h"

static __always_inline __u32 *pod_for(const struct frame *frame)
{
	struct ethhdr *eth = ethernet(frame);
	struct iphdr *ip = ip4_header(frame);
	struct ipv6hdr *ip6 = ip6_header(frame);

	if (eth && ip && eth->h_proto == bpf_htons(ETH_P_IP))
		return pod_at(ip->daddr);
	if (eth && ip6 && eth->h_proto == bpf_htons(ETH_P_IPV6))
		return pod_at6(destination6(ip6));
	return 0;
}

/* What a worker gives the kernel may begin a conversation that the kernel translates. */
static __always_inline void note_punt(const struct frame *frame)
{
	struct ethhdr *eth = ethernet(frame);
	struct iphdr *ip = ip4_header(frame);
	struct ipv6hdr *ip6 = ip6_header(frame);

	if (eth && ip && eth->h_proto == bpf_htons(ETH_P_IP) &&
	    ip4_kind(frame, ip) == KIND_PLAIN)
		note_source4(frame, ip);
	if (eth && ip6 && eth->h_proto == bpf_htons(ETH_P_IPV6))
		note_source6(frame, ip6);
}

SEC("tcx/ingress")
int trunk(struct __sk_buff *skb)
{
	__u32 packets = packets_of(skb);
	struct frame frame;
	__u32 *host_ifindex;

	pull_headers(skb, HEADER_BYTES_MAX);
	frame = frame_of(skb);
	host_ifindex = pod_for(&frame);
	/*
	 * The packet keeps the link addresses its worker gave it, which are not trunk0's, so the
	 * device marked it as another host's and both the pod and the kernel would discard it.
	 */
	if (skb->pkt_type == PACKET_OTHERHOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	if (!host_ifindex) {
		note_punt(&frame);
		settle(HOOK_TRUNK, TO_KERNEL, packets, 0);
		return TCX_NEXT;
	}
	settle(HOOK_TRUNK, TO_POD, packets, 0);
	return bpf_redirect_peer(*host_ifindex, 0);
}
