// SPDX-License-Identifier: Apache-2.0
//
// Live-frame generator: run by BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES, it fills a UDP
// datagram or a TCP SYN and redirects it out of an interface. Frames are recycled as the last
// receiver left them (net/bpf/test_run.c, xdp_test_run_batch), so every header byte is written on
// every run; their length is set back by the kernel. Payloads are zeros, which no checksum sees.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_SHAPES 16
#define MAX_DESTINATIONS 4096

struct shape {
	__u16 frame_bytes;
	__be16 ip_length;
	__u32 ip_sum; // unfolded sum of the header in host order, destination and checksum 0
	__u32 l4_sum; // of pseudo-header and header, destination, both ports and checksum 0
};

struct generator_config {
	__u64 stride; // coprime with flows * destinations
	__u8 destination_mac[6];
	__u8 source_mac[6];
	__be32 source;
	__u32 flows;        // source ports; at least 1
	__u32 destinations; // at least 1
	__u32 ifindex;
	__u32 largest_frame;
	__u32 shapes_used; // at least 1
	__u16 first_port;  // host order
	__u8 protocol;
	__u8 reserved;
	struct shape shapes[MAX_SHAPES];
};

struct destination {
	__be32 address;
	__u16 port; // host order
	__u16 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct generator_config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_DESTINATIONS);
	__type(key, __u32);
	__type(value, struct destination);
} destinations SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sequence SEC(".maps");

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct generator_config *c = bpf_map_lookup_elem(&config, &zero);
	__u32 *next = bpf_map_lookup_elem(&sequence, &zero);

	if (!c || !next || !c->flows || !c->destinations || !c->shapes_used)
		return XDP_DROP;
	__u32 n = (*next)++;
	__u32 pairs = c->flows * c->destinations;
	if (!pairs)
		return XDP_DROP;
	__u32 pair = (n * c->stride) % pairs;
	__u32 port = c->first_port + pair % c->flows;
	__u32 which = pair / c->flows;
	struct destination *to = bpf_map_lookup_elem(&destinations, &which);
	__u32 turn = n % c->shapes_used;
	if (!to || turn >= MAX_SHAPES)
		return XDP_DROP;
	struct shape *shape = &c->shapes[turn];
	if (shape->frame_bytes != c->largest_frame &&
	    bpf_xdp_adjust_tail(ctx, (int)shape->frame_bytes - (int)c->largest_frame))
		return XDP_DROP;

	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *ether = data;
	struct iphdr *ip = (void *)(ether + 1);
	if ((void *)(ip + 1) + sizeof(struct tcphdr) > end &&
	    (c->protocol != IPPROTO_UDP || (void *)(ip + 1) + sizeof(struct udphdr) > end))
		return XDP_DROP;

	__u32 address = bpf_ntohl(to->address);
	__u32 words = (address >> 16) + (address & 0xffff);
	__builtin_memcpy(ether->h_dest, c->destination_mac, 6);
	__builtin_memcpy(ether->h_source, c->source_mac, 6);
	ether->h_proto = bpf_htons(ETH_P_IP);
	if ((void *)(ip + 1) > end)
		return XDP_DROP;
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = 0;
	ip->tot_len = shape->ip_length;
	ip->id = 0;
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = 64;
	ip->protocol = c->protocol;
	ip->check = bpf_htons(fold(shape->ip_sum + words));
	ip->saddr = c->source;
	ip->daddr = to->address;
	__u16 sum = fold(shape->l4_sum + words + port + to->port);
	if (c->protocol == IPPROTO_UDP) {
		struct udphdr *udp = (void *)(ip + 1);
		if ((void *)(udp + 1) > end)
			return XDP_DROP;
		udp->source = bpf_htons(port);
		udp->dest = bpf_htons(to->port);
		udp->len = bpf_htons(bpf_ntohs(shape->ip_length) - sizeof(*ip));
		udp->check = bpf_htons(sum ? sum : 0xffff);
	} else {
		struct tcphdr *tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end)
			return XDP_DROP;
		__be32 *word = (void *)tcp;
		tcp->source = bpf_htons(port);
		tcp->dest = bpf_htons(to->port);
		word[1] = 0;
		word[2] = 0;
		word[3] = bpf_htonl(0x5002ffff); // 20 bytes, SYN, largest window
		tcp->check = bpf_htons(sum);
		tcp->urg_ptr = 0;
	}
	return bpf_redirect(c->ifindex, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
