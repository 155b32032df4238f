/*
 * Test only, never attached: returns the flow hash of a packet, computed as hook `pod` does.
 */
#include "flow_hash.h"
#include "parse6.h"

static __always_inline __u32 hash_ip6(const struct frame *frame)
{
	struct ipv6hdr *ip = ip6_header(frame);
	__u16 sport, dport;
	struct upper upper;

	if (!ip || ip6_kind(frame, ip, &upper) != KIND_PLAIN)
		return 0;
	l4_ports6(frame, &upper, &sport, &dport);
	return flow_hash6(source6(ip), destination6(ip), sport, dport, upper.protocol);
}

SEC("xdp")
int flow_hash_probe(struct xdp_md *xdp)
{
	struct frame frame = {
		.data = (void *)(long)xdp->data,
		.data_end = (void *)(long)xdp->data_end,
		.length = (void *)(long)xdp->data_end - (void *)(long)xdp->data,
	};
	struct iphdr *ip = ip4_header(&frame);
	__u16 sport, dport;

	if (!ip)
		return hash_ip6(&frame);
	l4_ports(&frame, ip->protocol, &sport, &dport);
	return flow_hash(bpf_ntohl(ip->saddr), bpf_ntohl(ip->daddr), sport, dport, ip->protocol);
}

char LICENSE[] SEC("license") = "Apache-2.0";
