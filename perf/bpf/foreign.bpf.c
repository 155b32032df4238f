// SPDX-License-Identifier: Apache-2.0
//
// Somebody else's program on an interface: passes everything.

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp.frags")
int foreign(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
