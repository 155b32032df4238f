/*
 * The maps all hooks share, and the layout of their values.
 *
 * src/layout.rs writes these structures byte by byte and names every offset; the two change
 * together. Addresses, ports and MACs are in network order where they are compared with packet
 * bytes, and say so. Values are read member by member: nothing here is constant data, because
 * clang folds `const volatile` configuration that is cast to a plain pointer into zeros.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#include "generated.h"

#define MAC_BYTES 6

/* An IPv6 address, in the words it is compared by. */
struct address6 {
	__be32 word[4];
};

/* A pod's interface, by the index of its host side. An address of zeros is none. */
struct endpoint {
	__be32 address;
	__u8 pod_mac[MAC_BYTES];
	__u8 host_mac[MAC_BYTES];
	struct address6 address6;
};

/* An uplink, by its index. */
struct uplink {
	__u32 slot;
	__u8 mac[MAC_BYTES];
	__u8 pad[2];
};

struct cidr {
	__u32 prefix_len;
	__be32 address;
};

struct cidr6 {
	__u32 prefix_len;
	struct address6 address;
};

struct config {
	__u64 stale_ns;
	__u32 trunk_ifindex; /* trunk0 */
	__u32 workers;       /* 0: not configured yet, everything is the kernel's */
	__be32 snat_address;
	__u16 port_first; /* host order, inclusive; first > last: no SNAT */
	__u16 port_last;
	__u32 imds_allowed;
	__u32 pad;
	struct address6 node6; /* zeros: the node has no IPv6 */
	__u32 offload;	       /* whether flows take their shortcut */
	__u32 epoch;	       /* only those of this one */
};

/* When a worker was last found away, and how often that began. */
struct lapse {
	__u64 last_ns;
	__u64 count;
};

enum hook {
	HOOK_POD,
	HOOK_TRUNK,
	HOOK_TRUNK_RX,
	HOOK_UPLINK,
	HOOK_UPLINK_TCX,
	HOOK_COUNT,
};

struct counters {
	__u64 seen;
	__u64 to_worker;
	__u64 to_kernel;
	__u64 fallback;
	__u64 to_pod;
	__u64 offloaded;
	__u64 offloaded_bytes;
	__u64 drops[DROP_REASON_COUNT];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS);
	__type(key, __u32);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

/* Address of a pod, network order, to the index of its host side. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS);
	__type(key, __be32);
	__type(value, __u32);
} pods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS);
	__type(key, struct address6);
	__type(value, __u32);
} pods6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_KERNEL_CIDRS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct cidr);
	__type(value, __u32);
} kernel_cidrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_KERNEL_CIDRS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct cidr6);
	__type(value, __u32);
} kernel_cidrs6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u32);
	__type(value, struct uplink);
} uplinks SEC(".maps");

/* Index: slot * MAX_QUEUES + queue. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MAX_SLOTS * MAX_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* CLOCK_MONOTONIC nanoseconds, written by each worker through a shared mapping. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_QUEUES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} heartbeat SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_QUEUES);
	__type(key, __u32);
	__type(value, struct lapse);
} lapses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HOOK_COUNT);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

static __always_inline struct config *configuration(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

static __always_inline struct counters *counters_of(__u32 hook)
{
	return bpf_map_lookup_elem(&counters, &hook);
}

static __always_inline __u32 *pod_at(__be32 address)
{
	return bpf_map_lookup_elem(&pods, &address);
}

static __always_inline int is_kernel_address(__be32 address)
{
	struct cidr key = { .prefix_len = 32, .address = address };

	return bpf_map_lookup_elem(&kernel_cidrs, &key) != 0;
}

static __always_inline __u32 *pod_at6(const struct address6 *address)
{
	struct address6 key = *address;

	return bpf_map_lookup_elem(&pods6, &key);
}

static __always_inline int is_kernel_address6(const struct address6 *address)
{
	struct cidr6 key = { .prefix_len = 128, .address = *address };

	return bpf_map_lookup_elem(&kernel_cidrs6, &key) != 0;
}
