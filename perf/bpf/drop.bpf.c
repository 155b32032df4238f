// SPDX-License-Identifier: Apache-2.0
//
// Drops at the first hook: what the same traffic costs without a dataplane. `drop` at TCX, `drop_xdp`
// at XDP; both count in one map.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TCX_PASS 0
#define TCX_DROP 2

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} dropped SEC(".maps");

static __always_inline void count(void)
{
	__u32 zero = 0;
	__u64 *packets = bpf_map_lookup_elem(&dropped, &zero);

	if (packets)
		*packets += 1;
}

SEC("tcx/ingress")
int drop(struct __sk_buff *skb)
{
	// Neighbours go on talking.
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return TCX_PASS;
	count();
	return TCX_DROP;
}

SEC("xdp.frags")
int drop_xdp(struct xdp_md *ctx)
{
	struct ethhdr *ether = (void *)(long)ctx->data;

	if ((void *)(ether + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	if (ether->h_proto == bpf_htons(ETH_P_ARP))
		return XDP_PASS;
	count();
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
