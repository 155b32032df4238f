/*
 * The shortcut at TCX hooks: rewrites an skb, super-packets whole, and redirects it.
 *
 * The kernel may still owe the packet its L4 checksum (partial), or have one over the whole of it
 * (complete). The helpers know which and keep each right; the IPv4 header's checksum is never
 * owed, so it is made here. Once the first byte has changed there is no way back: what then fails
 * is a drop.
 */
#pragma once

#include "offload.h"
#include "tcx.h"

/* Ethernet, IPv4 and L4 ports, laid out so that words lie on words. */
struct headers4 {
	__u8 pad[2];
	struct ethhdr eth;
	struct iphdr ip;
	__be16 ports[2];
};

#define HEADERS4_BYTES (sizeof(struct headers4) - 2)

/* Whether every packet this becomes on the wire fits the way out. */
static __always_inline int fits_skb(const struct __sk_buff *skb, const struct flow *flow,
				    __u32 ip_header_bytes, const struct l4 *l4)
{
	__u32 bytes = skb->gso_size ? ip_header_bytes + l4->header_bytes + skb->gso_size
				    : skb->len - ETH_HLEN;

	return bytes <= flow->mtu;
}

static __always_inline int leave(const struct flow *flow)
{
	return flow->out == OUT_POD ? bpf_redirect_peer(flow->ifindex, 0)
				    : bpf_redirect(flow->ifindex, 0);
}

/* Mends the L4 checksum for a changed address and port; 0 when done. */
static __always_inline long mend_l4(struct __sk_buff *skb, const struct l4 *l4,
				    const __be32 addresses[2], const __be16 ports[2])
{
	__u32 at = L4_OFFSET + l4->checksum_at;
	__u64 zero = l4->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	long failed = 0;

	if (l4->protocol != IPPROTO_ICMP && addresses[0] != addresses[1])
		failed = bpf_l4_csum_replace(skb, at, addresses[0], addresses[1],
					     BPF_F_PSEUDO_HDR | zero | sizeof(__be32));
	if (!failed && ports[0] != ports[1])
		failed = bpf_l4_csum_replace(skb, at, ports[0], ports[1], zero | sizeof(__be16));
	return failed;
}

/* Writes the headers, and the echo identifier where ports are none; 0 when done. */
static __always_inline long store4(struct __sk_buff *skb, const struct headers4 *headers,
				   const struct l4 *l4, __be16 id)
{
	if (!l4->id_at)
		return bpf_skb_store_bytes(skb, 0, &headers->eth, HEADERS4_BYTES, 0);
	return bpf_skb_store_bytes(skb, L4_OFFSET + l4->id_at, &id, sizeof(id), 0) ||
	       bpf_skb_store_bytes(skb, 0, &headers->eth, L4_OFFSET, 0);
}

static __always_inline long rewrite_skb4(struct __sk_buff *skb, const struct iphdr *ip,
					 const struct flow *flow, const struct l4 *l4)
{
	struct headers4 headers = { .ip = *ip, .eth.h_proto = bpf_htons(ETH_P_IP) };
	__be32 addresses[2] = { 0, 0 };
	__be16 ports[2] = { 0, 0 };

	headers.ports[0] = l4->source_port;
	headers.ports[1] = l4->destination_port;
	__builtin_memcpy(headers.eth.h_dest, flow->destination_mac, ETH_ALEN);
	__builtin_memcpy(headers.eth.h_source, flow->source_mac, ETH_ALEN);
	if (flow->rewrite == REWRITE_SOURCE) {
		addresses[0] = headers.ip.saddr;
		ports[0] = headers.ports[0];
		headers.ip.saddr = addresses[1] = flow->address;
		headers.ports[0] = ports[1] = flow->port;
	} else if (flow->rewrite == REWRITE_DESTINATION) {
		addresses[0] = headers.ip.daddr;
		ports[0] = headers.ports[1];
		headers.ip.daddr = addresses[1] = flow->address;
		headers.ports[1] = ports[1] = flow->port;
	}
	headers.ip.ttl--;
	headers.ip.check = 0;
	headers.ip.check = ~ip4_sum(&headers.ip);
	if (mend_l4(skb, l4, addresses, ports))
		return -1;
	return store4(skb, &headers, l4, headers.ports[0] | headers.ports[1]);
}

/* How old the rules of an entry may be where nobody decides anew. */
#define GRACE_EPOCHS 1

/*
 * OFFLOADED with the verdict in `action`, a drop, or TO_WORKER for what takes no shortcut. Entries
 * may be of `grace` epochs ago.
 */
static __always_inline __u32 offload_skb4(struct __sk_buff *skb, const struct frame *frame,
					  const struct iphdr *ip, __u8 zone,
					  const struct config *config, __u32 grace, int *action)
{
	struct flow_key4 key;
	struct flow *flow;
	struct l4 l4;

	if (!flow_key4_of(frame, ip, zone, &key, &l4) || l4.trailer)
		return TO_WORKER;
	flow = bpf_map_lookup_elem(&flows4, &key);
	if (!flow || config->epoch - flow->epoch > grace ||
	    !fits_skb(skb, flow, IP4_HEADER_BYTES, &l4))
		return TO_WORKER;
	if (rewrite_skb4(skb, ip, flow, &l4))
		return DROP(DROP_HOOK_REWRITE);
	note_use(flow, packets_of(skb), skb->len);
	*action = leave(flow);
	return OFFLOADED;
}

/* IPv6 is never translated. Its header has no checksum, so a sum over the whole packet changes
 * with the hop limit. */
static __always_inline long rewrite_skb6(struct __sk_buff *skb, __u8 hop_limit,
					 const struct flow *flow)
{
	__u8 macs[2 * ETH_ALEN];

	__builtin_memcpy(macs, flow->destination_mac, ETH_ALEN);
	__builtin_memcpy(macs + ETH_ALEN, flow->source_mac, ETH_ALEN);
	hop_limit--;
	return bpf_skb_store_bytes(skb, ETH_HLEN + __builtin_offsetof(struct ipv6hdr, hop_limit),
				   &hop_limit, sizeof(hop_limit), BPF_F_RECOMPUTE_CSUM) ||
	       bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
}

static __always_inline __u32 offload_skb6(struct __sk_buff *skb, const struct frame *frame,
					  const struct ipv6hdr *ip, __u8 zone,
					  const struct config *config, __u32 grace, int *action)
{
	struct flow_key6 key;
	struct flow *flow;
	struct l4 l4;

	if (!flow_key6_of(frame, ip, zone, &key, &l4) || l4.trailer)
		return TO_WORKER;
	flow = bpf_map_lookup_elem(&flows6, &key);
	if (!flow || config->epoch - flow->epoch > grace ||
	    !fits_skb(skb, flow, IP6_HEADER_BYTES, &l4))
		return TO_WORKER;
	if (rewrite_skb6(skb, ip->hop_limit, flow))
		return DROP(DROP_HOOK_REWRITE);
	note_use(flow, packets_of(skb), skb->len);
	*action = leave(flow);
	return OFFLOADED;
}
