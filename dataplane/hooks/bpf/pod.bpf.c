/*
 * Hook `pod`: TCX ingress on the host side of a pod's veth. Everything a pod sends comes here.
 *
 * Guards the source (MAC, address, ARP and neighbour discovery) before anything else is looked
 * at, carries flows that are offloaded, leaves the kernel what is the kernel's (by destination, or
 * because it translates the conversation), and sends the rest
 * whole, GSO included, to the trunk's queue of the worker that owns the flow. It changes no byte
 * of a packet that it does not carry itself.
 */
#include "conntrack.h"
#include "flow_hash.h"
#include "heartbeat.h"
#include "offload_skb.h"

#define IMDS_ADDRESS bpf_htonl(0xa9fea9fe) /* 169.254.169.254 */

static __always_inline __u32 guard_arp(const struct frame *frame, const struct endpoint *pod)
{
	struct arp_ip4 *arp = arp_message(frame);
	__be32 sender;

	if (!arp)
		return DROP(DROP_ARP_BAD);
	__builtin_memcpy(&sender, arp->sender_ip, sizeof(sender));
	if (!mac_equal(arp->sender_mac, pod->pod_mac) || !sender || sender != pod->address)
		return DROP(DROP_SPOOF_ARP);
	return TO_KERNEL;
}

/* TO_WORKER when the frame is IP and may go on. */
static __always_inline __u32 guard_ethernet(const struct __sk_buff *skb, const struct frame *frame,
					    const struct endpoint *pod)
{
	struct ethhdr *eth = ethernet(frame);

	if (!eth)
		return DROP(DROP_L2_SHORT);
	if (mac_is_zero(eth->h_source) || mac_is_group(eth->h_source))
		return DROP(DROP_L2_SRC_BAD);
	if (!mac_equal(eth->h_source, pod->pod_mac))
		return DROP(DROP_SPOOF_MAC);
	if (skb->vlan_present || ethertype_is_vlan(eth->h_proto))
		return DROP(DROP_L2_VLAN);
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return guard_arp(frame, pod);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return is_ip6(frame) ? TO_WORKER : DROP(DROP_IP_VERSION);
	return eth->h_proto == bpf_htons(ETH_P_IP) ? TO_WORKER : DROP(DROP_L2_ETHERTYPE);
}

/* RFC 1812 5.3.4: what arrived as a link-layer broadcast is not forwarded. */
static __always_inline __u32 guard_link_destination(const struct frame *frame,
						    const struct endpoint *pod)
{
	struct ethhdr *eth = frame->data;

	if ((void *)(eth + 1) > frame->data_end)
		return DROP(DROP_L2_SHORT);
	if (mac_is_broadcast(eth->h_dest))
		return DROP(DROP_BCAST);
	if (mac_is_group(eth->h_dest))
		return DROP(DROP_MCAST);
	if (!mac_equal(eth->h_dest, pod->host_mac))
		return DROP(DROP_L2_NOT_OURS);
	return TO_WORKER;
}

/* TO_WORKER when the destination is for the workers to decide. */
static __always_inline __u32 classify_destination(__be32 address, const struct config *config)
{
	if (address == IMDS_ADDRESS)
		return config->imds_allowed ? TO_KERNEL : DROP(DROP_IMDS);
	if (is_broadcast(address))
		return DROP(DROP_BCAST);
	if (is_multicast(address))
		return DROP(DROP_MCAST);
	if (is_martian_destination(address))
		return DROP(DROP_MARTIAN_DST);
	return is_kernel_address(address) ? TO_KERNEL : TO_WORKER;
}

/* Chooses the trunk's queue, or the kernel when that queue's worker is away. */
static __always_inline __u32 steer(struct __sk_buff *skb, __u32 hash, const struct config *config)
{
	__u32 workers = config->workers;
	__u32 queue;

	if (!workers || !config->trunk_ifindex)
		return FALLBACK;
	queue = flow_queue(hash, workers);
	if (!worker_is_alive(queue, config->stale_ns))
		return FALLBACK;
	/* A recorded receive queue is stored plus one; transmit on the trunk reads it back. */
	skb->queue_mapping = queue + 1;
	return TO_WORKER;
}

static __always_inline __u32 classify_ip4(struct __sk_buff *skb, const struct frame *frame,
					  const struct endpoint *pod, const struct config *config,
					  int *action)
{
	struct iphdr *ip = ip4_header(frame);
	__u16 sport = 0, dport = 0;
	__u32 kind, outcome;

	if (!ip)
		return steer(skb, 0, config);
	if (is_martian_source(ip->saddr))
		return DROP(DROP_MARTIAN_SRC);
	if (ip->saddr != pod->address)
		return DROP(DROP_SPOOF_IP);
	kind = ip4_kind(frame, ip);
	if (kind >= OUTCOME_DROP)
		return kind;
	if (kind == KIND_WORKER)
		return steer(skb, 0, config);
	if (kind == KIND_PLAIN && config->offload &&
	    guard_link_destination(frame, pod) == TO_WORKER) {
		outcome = offload_skb4(skb, frame, ip, ZONE_PODS, config, 0, action);
		if (outcome != TO_WORKER)
			return outcome;
	}
	outcome = classify_destination(ip->daddr, config);
	if (outcome == TO_KERNEL && kind == KIND_PLAIN)
		note_source4(frame, ip);
	if (outcome != TO_WORKER)
		return outcome;
	outcome = guard_link_destination(frame, pod);
	if (outcome != TO_WORKER)
		return outcome;
	if (kind == KIND_OPTIONS)
		return TO_KERNEL;
	if (kind == KIND_PLAIN && is_kernels4(&(struct context){ .skb = skb }, frame, ip))
		return TO_KERNEL;
	/* All fragments of a datagram meet at one worker: none but the first has ports. */
	if (kind == KIND_PLAIN)
		l4_ports(frame, ip->protocol, &sport, &dport);
	outcome = steer(skb,
			flow_hash(bpf_ntohl(ip->saddr), bpf_ntohl(ip->daddr), sport, dport,
				  ip->protocol),
			config);
	/* Nobody is there to decide anew: what was decided before the last change beats another port. */
	if (outcome == FALLBACK && kind == KIND_PLAIN && config->offload) {
		outcome = offload_skb4(skb, frame, ip, ZONE_PODS, config, GRACE_EPOCHS, action);
		if (outcome != TO_WORKER)
			return outcome;
		outcome = FALLBACK;
	}
	/* A connection that the kernel now begins to translate stays with it. */
	if (outcome == FALLBACK && kind == KIND_PLAIN && ip->protocol == IPPROTO_TCP)
		note_source4(frame, ip);
	return outcome;
}

#include "pod6.h"

static __always_inline __u32 decide_pod(struct __sk_buff *skb, const struct config *config,
					int *action)
{
	__u32 ifindex = skb->ifindex;
	struct endpoint *pod = bpf_map_lookup_elem(&endpoints, &ifindex);
	struct frame frame;
	__u32 outcome;

	if (!pod)
		return DROP(DROP_HOOK_NO_ENDPOINT);
	pull_headers(skb, HEADER_BYTES_MAX);
	frame = frame_of(skb);
	outcome = guard_ethernet(skb, &frame, pod);
	if (outcome != TO_WORKER)
		return outcome;
	return skb->protocol == bpf_htons(ETH_P_IPV6)
		       ? classify_ip6(skb, &frame, pod, config, action)
		       : classify_ip4(skb, &frame, pod, config, action);
}

SEC("tcx/ingress")
int pod(struct __sk_buff *skb)
{
	struct config *config = configuration();
	__u32 packets = packets_of(skb), bytes = skb->len;
	int action = TCX_NEXT;
	__u32 outcome = config ? decide_pod(skb, config, &action) : FALLBACK;

	settle(HOOK_POD, outcome, packets, bytes);
	if (outcome == OFFLOADED)
		return action;
	if (config && outcome == TO_WORKER)
		return bpf_redirect(config->trunk_ifindex, 0);
	return outcome < OUTCOME_DROP ? TCX_NEXT : TCX_DROP;
}
