// SPDX-License-Identifier: Apache-2.0
//
// Live-frame generator: run by BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES, it fills a UDP
// frame and redirects it out of an interface. Frames are recycled as the last receiver left them
// (net/bpf/test_run.c, xdp_test_run_batch), so every header byte is written on every run.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct generator_config {
	__u8 destination_mac[6];
	__u8 source_mac[6];
	__be32 source;
	__be32 destination;
	__u16 first_port;  // host order; source ports are first_port .. first_port + flows
	__u16 flows;       // at least 1
	__be16 destination_port;
	__be16 ip_length;
	__be16 ip_checksum;
	__u16 reserved;
	__u32 udp_sum; // unfolded sum of pseudo-header and header in host order, source port and checksum 0
	__u32 ifindex;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct generator_config);
} config SEC(".maps");

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
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *ether = data;
	struct iphdr *ip = (void *)(ether + 1);
	struct udphdr *udp = (void *)(ip + 1);
	__u32 zero = 0;

	if ((void *)(udp + 1) > end)
		return XDP_DROP;
	struct generator_config *c = bpf_map_lookup_elem(&config, &zero);
	__u32 *next = bpf_map_lookup_elem(&sequence, &zero);
	if (!c || !next || !c->flows)
		return XDP_DROP;
	__u16 port = c->first_port + (*next)++ % c->flows;

	__builtin_memcpy(ether->h_dest, c->destination_mac, 6);
	__builtin_memcpy(ether->h_source, c->source_mac, 6);
	ether->h_proto = bpf_htons(ETH_P_IP);
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = 0;
	ip->tot_len = c->ip_length;
	ip->id = 0;
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = 64;
	ip->protocol = 17;
	ip->check = c->ip_checksum;
	ip->saddr = c->source;
	ip->daddr = c->destination;
	udp->source = bpf_htons(port);
	udp->dest = c->destination_port;
	udp->len = bpf_htons(bpf_ntohs(c->ip_length) - sizeof(*ip));
	__u16 sum = fold(c->udp_sum + port);
	udp->check = bpf_htons(sum ? sum : 0xffff);
	return bpf_redirect(c->ifindex, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
