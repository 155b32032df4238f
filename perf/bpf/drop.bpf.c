// SPDX-License-Identifier: Apache-2.0
//
// Drops at the first hook: what the same traffic costs without a dataplane.

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define TCX_DROP 2

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} dropped SEC(".maps");

SEC("tcx/ingress")
int drop(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&dropped, &zero);

	if (count)
		*count += 1;
	return TCX_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
