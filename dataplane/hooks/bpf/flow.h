/*
 * Flows that a worker has decided and the hooks carry by themselves: key, value, maps.
 *
 * src/layout.rs writes these structures byte by byte. An entry is one direction; the worker that
 * owns the flow puts both in and takes both out, and nobody else does: no entry outlives its flow,
 * none is evicted. The hooks change only the counters.
 */
#pragma once

#include "maps.h"

/* Kind of interface a packet arrives on: a pod's packet never matches what came from a wire. */
enum zone {
	ZONE_PODS,
	ZONE_UPLINKS,
};

struct flow_key4 {
	__be32 source;
	__be32 destination;
	__be16 source_port; /* or the identifier of an echo request */
	__be16 destination_port; /* or of an echo reply */
	__u8 protocol;
	__u8 zone;
	__u8 pad[2];
};

struct flow_key6 {
	struct address6 source;
	struct address6 destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 zone;
	__u8 pad[2];
};

enum flow_rewrite {
	REWRITE_NOTHING,
	REWRITE_SOURCE,
	REWRITE_DESTINATION,
};

enum flow_out {
	OUT_UPLINK,
	OUT_POD,
};

struct flow {
	__u64 last_seen_ns; /* CLOCK_MONOTONIC, coarse */
	__u64 packets;	    /* segments, for a GSO super-packet */
	__u64 bytes;	    /* of the frames as the hook saw them */
	__u32 epoch;
	__u32 ifindex; /* an uplink, or the host side of a pod's veth */
	__be32 address;
	__be16 port;
	__u16 mtu; /* bytes of IP packet the way out takes */
	__u8 destination_mac[MAC_BYTES];
	__u8 source_mac[MAC_BYTES];
	__u8 rewrite;
	__u8 out;
	__u8 in_xdp; /* from an uplink: carried by XDP, not left to the TCX hook behind it */
	__u8 pad;
	__u64 owner; /* what whoever put it in knows it by; means nothing to the hooks */
};

/* Entries come one by one as flows are established, so memory grows with them. The sizes are set
 * when the object is loaded. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow_key4);
	__type(value, struct flow);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow_key6);
	__type(value, struct flow);
} flows6 SEC(".maps");

/* Host sides of pods' veths that take XDP frames: those whose pod side runs NAPI. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, MAX_PODS);
	__type(key, __u32);
	__type(value, __u32);
} pod_devices SEC(".maps");

/* Flows run on any CPU, so counting is atomic. */
static __always_inline void note_use(struct flow *flow, __u32 packets, __u32 bytes)
{
	flow->last_seen_ns = bpf_ktime_get_coarse_ns();
	__sync_fetch_and_add(&flow->packets, packets);
	__sync_fetch_and_add(&flow->bytes, bytes);
}
