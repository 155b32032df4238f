/*
 * Conversations that kernel conntrack translates: Services by kube-proxy, node ports, host ports,
 * and TCP that the kernel translated itself while a worker was away. They are the kernel's in both
 * directions, because only it can translate the answers back.
 *
 * Asking conntrack costs more than all else a hook does, so a filter is asked first: one end
 * (address, L4 port, protocol) of every conversation given to the kernel is noted in it with the
 * round it was seen in. Ends not noted in this round or the one before cannot be the kernel's.
 * Rounds begin from user space, which notes the ends of the conversations that go on; until it
 * does, every slot counts as noted. Two ends may share a slot, which costs a look-up.
 */
#pragma once

#include "parse6.h"

/* uapi enum ip_conntrack_status. */
#define IPS_SRC_NAT (1 << 4)
#define IPS_DST_NAT (1 << 5)

/* struct bpf_ct_opts (net/netfilter/nf_conntrack_bpf.c) as every kernel since 5.18 takes it. */
struct bpf_ct_opts___v1 {
	__s32 netns_id; /* BPF_F_CURRENT_NETNS: the device's */
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

/* A definition: with a forward declaration the verifier finds no type to check against. */
struct nf_conn {
	unsigned long status;
} __attribute__((preserve_access_index));

/* Weak: without them, on a kernel without conntrack, there are no such conversations. */
extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb, struct bpf_sock_tuple *tuple,
					 __u32 tuple_len, struct bpf_ct_opts___v1 *opts,
					 __u32 opts_len) __weak __ksym;
extern struct nf_conn *bpf_xdp_ct_lookup(struct xdp_md *xdp, struct bpf_sock_tuple *tuple,
					 __u32 tuple_len, struct bpf_ct_opts___v1 *opts,
					 __u32 opts_len) __weak __ksym;
extern void bpf_ct_release(struct nf_conn *conversation) __weak __ksym;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KERNEL_END_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} kernel_ends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} kernel_round SEC(".maps");

/* Whose packet it is: the kernel has a function for each. */
struct context {
	struct __sk_buff *skb; /* one of them is null */
	struct xdp_md *xdp;
};

static __always_inline int has_tuple(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

/* `address` is one word, IPv6 folded by xor; both in network order. src/kernel_ends.rs does the same. */
static __always_inline __u32 *end_slot(__be32 address, __be16 port, __u8 protocol)
{
	__u32 hash = bpf_ntohl(address) ^ ((__u32)bpf_ntohs(port) << 16 | protocol);

	hash *= 0x9E3779B1;
	hash ^= hash >> 15;
	hash *= 0x85EBCA77;
	hash = (hash ^ (hash >> 13)) & (KERNEL_END_SLOTS - 1);
	return bpf_map_lookup_elem(&kernel_ends, &hash);
}

static __always_inline __u32 *round_now(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&kernel_round, &zero);
}

/* The kernel is given a packet from this end. */
static __always_inline void note_end(__be32 address, __be16 port, __u8 protocol)
{
	__u32 *slot = end_slot(address, port, protocol), *round = round_now();

	if (slot && round && *slot != *round)
		*slot = *round;
}

static __always_inline int is_noted(__be32 address, __be16 port, __u8 protocol)
{
	__u32 *slot = end_slot(address, port, protocol), *round = round_now();

	return !slot || !round || *round - *slot < 2;
}

/*
 * Whether conntrack translates this conversation. UDP whose source alone the kernel translates
 * began while a worker was away, and is the worker's again: no answer to it can be lost by that.
 */
static __always_inline int is_translated(const struct context *context,
					 struct bpf_sock_tuple *tuple, __u32 tuple_len,
					 __u8 protocol)
{
	struct bpf_ct_opts___v1 opts = { .netns_id = BPF_F_CURRENT_NETNS, .l4proto = protocol };
	unsigned long wanted = protocol == IPPROTO_TCP ? IPS_DST_NAT | IPS_SRC_NAT : IPS_DST_NAT;
	struct nf_conn *conversation;
	unsigned long status;

	if (!bpf_ksym_exists(bpf_ct_release))
		return 0;
	if (context->skb && bpf_ksym_exists(bpf_skb_ct_lookup))
		conversation = bpf_skb_ct_lookup(context->skb, tuple, tuple_len, &opts,
						 sizeof(opts));
	else if (context->xdp && bpf_ksym_exists(bpf_xdp_ct_lookup))
		conversation = bpf_xdp_ct_lookup(context->xdp, tuple, tuple_len, &opts,
						 sizeof(opts));
	else
		return 0;
	if (!conversation)
		return 0;
	status = conversation->status;
	bpf_ct_release(conversation);
	return (status & wanted) != 0;
}

/* Both ports of TCP and UDP at `at`, or null. */
static __always_inline __be16 *ports_at(const struct frame *frame, __u32 at, __u8 protocol)
{
	__be16 *ports = frame->data + at;

	if (!has_tuple(protocol) || (void *)(ports + 2) > frame->data_end)
		return 0;
	return ports;
}

/* The kernel is given this packet, which is whole and has no options. */
static __always_inline void note_source4(const struct frame *frame, const struct iphdr *ip)
{
	__be16 *ports = ports_at(frame, L4_OFFSET, ip->protocol);

	if (ports)
		note_end(ip->saddr, ports[0], ip->protocol);
}

/* Whether a whole packet without options is of a conversation the kernel translates. */
static __always_inline int is_kernels4(const struct context *context, const struct frame *frame,
				       const struct iphdr *ip)
{
	__be16 *ports = ports_at(frame, L4_OFFSET, ip->protocol);
	struct bpf_sock_tuple tuple = {};

	if (!ports || (!is_noted(ip->daddr, ports[1], ip->protocol) &&
		       !is_noted(ip->saddr, ports[0], ip->protocol)))
		return 0;
	tuple.ipv4.saddr = ip->saddr;
	tuple.ipv4.daddr = ip->daddr;
	tuple.ipv4.sport = ports[0];
	tuple.ipv4.dport = ports[1];
	return is_translated(context, &tuple, sizeof(tuple.ipv4), ip->protocol);
}

static __always_inline __be32 folded6(const struct address6 *a)
{
	return a->word[0] ^ a->word[1] ^ a->word[2] ^ a->word[3];
}

/* The same for IPv6 without extension headers. */
static __always_inline void note_source6(const struct frame *frame, const struct ipv6hdr *ip)
{
	__be16 *ports = ports_at(frame, UPPER6_OFFSET, ip->nexthdr);

	if (ports)
		note_end(folded6(source6(ip)), ports[0], ip->nexthdr);
}

static __always_inline int is_kernels6(const struct context *context, const struct frame *frame,
				       const struct ipv6hdr *ip)
{
	__be16 *ports = ports_at(frame, UPPER6_OFFSET, ip->nexthdr);
	struct bpf_sock_tuple tuple = {};

	if (!ports || (!is_noted(folded6(destination6(ip)), ports[1], ip->nexthdr) &&
		       !is_noted(folded6(source6(ip)), ports[0], ip->nexthdr)))
		return 0;
	__builtin_memcpy(tuple.ipv6.saddr, source6(ip), sizeof(tuple.ipv6.saddr));
	__builtin_memcpy(tuple.ipv6.daddr, destination6(ip), sizeof(tuple.ipv6.daddr));
	tuple.ipv6.sport = ports[0];
	tuple.ipv6.dport = ports[1];
	return is_translated(context, &tuple, sizeof(tuple.ipv6), ip->nexthdr);
}
