// SPDX-License-Identifier: Apache-2.0
// The VPC as one program: runs for every frame that enters the fabric (TCX ingress of every port).
//
// It delivers IPv4 by address ownership, answers ARP, checks sources as EC2's source/destination
// check does, and counts every frame under exactly one verdict. It changes Ethernet addresses and
// nothing else: a VPC does not touch TTL. The enum and the structs are mirrored in fabric/maps.rs.
//
// The licence string below is what the kernel asks of programs that call its GPL-only functions;
// none is called, and the file itself is Apache-2.0.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define DROP 2 /* TCX_DROP, include/uapi/linux/bpf.h; newer than the headers of Debian 12 */
#define MAX_PORTS 512
#define MAX_ADDRESSES 16384
#define MAX_VPC_CIDRS 4

enum verdict {
	V_DELIVERED,
	V_TO_OUTSIDE,
	V_ARP_ANSWERED,
	V_SUNK,
	V_SOURCE_CHECK,
	V_SOURCE_MAC,
	V_DESTINATION_MAC,
	V_NO_OWNER,
	V_OUTSIDE_SOURCE,
	V_NOT_ROUTABLE,
	V_TOO_BIG,
	V_MALFORMED,
	V_NOT_IPV4,
	V_ARP_UNANSWERED,
	V_NO_PORT,
	VERDICTS,
};

enum port_kind {
	PORT_ENI,
	PORT_OUTSIDE,
};

struct port {
	__u32 slot;
	__u32 kind;
	__be32 gateway;
	__u8 mac[ETH_ALEN];
	__u8 source_check;
	__u8 sink_protocol; /* 0: deliver; 255: count and drop everything; else that protocol only */
};

struct owner {
	__u32 ifindex;
	__u32 slot;
	__u32 mtu;
	__u8 mac[ETH_ALEN];
	__u8 node_primary;
	__u8 pad;
};

struct cidr {
	__be32 base;
	__be32 mask;
};

struct vpc {
	struct owner outside;
	__u32 outside_accepts_any;
	__u32 cidr_count;
	struct cidr cidrs[MAX_VPC_CIDRS];
	__u8 router_mac[ETH_ALEN];
	__u8 pad[2];
};

struct counters {
	__u64 rx_packets;
	__u64 rx_bytes;
	__u64 tx_packets;
	__u64 tx_bytes;
	__u64 sunk_bytes;
	__u64 verdicts[VERDICTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, struct port);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ADDRESSES);
	__type(key, __be32);
	__type(value, struct owner);
} owners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vpc);
} vpc SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

/* RFC 826 for Ethernet and IPv4; <linux/if_arp.h> drags the C library in. */
#define ARPHRD_ETHER 1
#define ARPOP_REQUEST 1
#define ARPOP_REPLY 2
struct arp_ipv4 {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_bytes;
	__u8 protocol_bytes;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender;
	__u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));

static __always_inline __u64 packets_of(struct __sk_buff *skb)
{
	return skb->gso_segs ? skb->gso_segs : 1;
}

static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

static __always_inline void set_macs(struct ethhdr *eth, const __u8 *to, const __u8 *from)
{
	__builtin_memcpy(eth->h_dest, to, ETH_ALEN);
	__builtin_memcpy(eth->h_source, from, ETH_ALEN);
}

static __always_inline int in_vpc(const struct vpc *vpc, __be32 address)
{
	for (int i = 0; i < MAX_VPC_CIDRS; i++) {
		if (i >= vpc->cidr_count)
			return 0;
		if ((address & vpc->cidrs[i].mask) == vpc->cidrs[i].base)
			return 1;
	}
	return 0;
}

static __always_inline int not_routable(__be32 address)
{
	__u32 host = bpf_ntohl(address);

	return host >> 24 == 0 || host >> 24 == 127 || host >> 28 >= 0xe || host >> 16 == 0xa9fe;
}

static __always_inline int answer_arp(struct __sk_buff *skb, const struct port *port,
				      const struct vpc *vpc, enum verdict *verdict)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct arp_ipv4 *arp = data + sizeof(*eth);
	const __u8 *mac = vpc->router_mac;

	*verdict = V_MALFORMED;
	if ((void *)(arp + 1) > end)
		return DROP;
	if (arp->hardware != bpf_htons(ARPHRD_ETHER) || arp->protocol != bpf_htons(ETH_P_IP) ||
	    arp->hardware_bytes != ETH_ALEN || arp->protocol_bytes != 4)
		return DROP;
	*verdict = V_ARP_UNANSWERED;
	if (arp->operation != bpf_htons(ARPOP_REQUEST))
		return DROP;
	__be32 target = arp->target;
	if (target != port->gateway) {
		struct owner *owner = bpf_map_lookup_elem(&owners, &target);
		/* Nobody answers a host that asks for its own address: that is how it looks for
		 * duplicates. */
		if (!owner || owner->ifindex == skb->ifindex || port->kind == PORT_OUTSIDE)
			return DROP;
		mac = owner->mac;
	}
	set_macs(eth, arp->sender_mac, mac);
	arp->operation = bpf_htons(ARPOP_REPLY);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, ETH_ALEN);
	__builtin_memcpy(arp->sender_mac, mac, ETH_ALEN);
	arp->target = arp->sender;
	arp->sender = target;
	*verdict = V_ARP_ANSWERED;
	return bpf_redirect(skb->ifindex, 0);
}

static __always_inline int deliver(struct __sk_buff *skb, struct ethhdr *eth,
				   const struct owner *to, const struct vpc *vpc)
{
	__u32 slot = to->slot;
	struct counters *out = bpf_map_lookup_elem(&counters, &slot);

	if (out) {
		out->tx_packets += packets_of(skb);
		out->tx_bytes += skb->len;
	}
	set_macs(eth, to->mac, vpc->router_mac);
	return bpf_redirect(to->ifindex, 0);
}

static __always_inline int route(struct __sk_buff *skb, const struct port *port,
				 const struct vpc *vpc, enum verdict *verdict)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = data + sizeof(*eth);

	*verdict = V_MALFORMED;
	if ((void *)(ip + 1) > end)
		return DROP;
	if (ip->version != 4 || ip->ihl < 5 || bpf_ntohs(ip->tot_len) < ip->ihl * 4 ||
	    bpf_ntohs(ip->tot_len) + sizeof(*eth) > skb->len)
		return DROP;
	__be32 destination = ip->daddr, source = ip->saddr;
	struct owner *from = bpf_map_lookup_elem(&owners, &source);
	if (port->kind == PORT_ENI) {
		*verdict = V_SOURCE_MAC;
		if (!same_mac(eth->h_source, port->mac))
			return DROP;
		*verdict = V_SOURCE_CHECK;
		if (port->source_check && (!from || from->ifindex != skb->ifindex))
			return DROP;
	}
	*verdict = V_NOT_ROUTABLE;
	if (not_routable(destination))
		return DROP;
	const struct owner *to = bpf_map_lookup_elem(&owners, &destination);
	*verdict = V_DESTINATION_MAC;
	if (!same_mac(eth->h_dest, vpc->router_mac) && !(to && same_mac(eth->h_dest, to->mac)))
		return DROP;
	enum verdict done = V_DELIVERED;
	if (!to) {
		*verdict = V_NO_OWNER;
		if (in_vpc(vpc, destination) || port->kind == PORT_OUTSIDE)
			return DROP;
		*verdict = V_OUTSIDE_SOURCE;
		if (!vpc->outside_accepts_any && !(from && from->node_primary))
			return DROP;
		to = &vpc->outside;
		done = V_TO_OUTSIDE;
	}
	*verdict = V_TOO_BIG;
	if (!skb->gso_size && skb->len > to->mtu + sizeof(*eth))
		return DROP;
	*verdict = V_SUNK;
	if (port->sink_protocol == 255 || (port->sink_protocol && port->sink_protocol == ip->protocol))
		return DROP;
	*verdict = done;
	return deliver(skb, eth, to, vpc);
}

SEC("tcx/ingress")
int fabric(struct __sk_buff *skb)
{
	__u32 zero = 0, ifindex = skb->ifindex, slot = 0;
	enum verdict verdict = V_NO_PORT;
	int action = DROP;
	struct port *port = bpf_map_lookup_elem(&ports, &ifindex);
	struct vpc *config = bpf_map_lookup_elem(&vpc, &zero);

	if (port)
		slot = port->slot;
	if (port && config) {
		__u32 headers = sizeof(struct ethhdr) + sizeof(struct arp_ipv4);
		bpf_skb_pull_data(skb, skb->len < headers ? skb->len : headers);
		if (skb->protocol == bpf_htons(ETH_P_IP))
			action = route(skb, port, config, &verdict);
		else if (skb->protocol == bpf_htons(ETH_P_ARP))
			action = answer_arp(skb, port, config, &verdict);
		else
			verdict = V_NOT_IPV4;
	}
	struct counters *in = bpf_map_lookup_elem(&counters, &slot);
	if (in && verdict < VERDICTS) {
		__u64 packets = packets_of(skb);
		in->rx_packets += packets;
		in->rx_bytes += skb->len;
		in->verdicts[verdict] += packets;
		if (verdict == V_SUNK)
			in->sunk_bytes += skb->len;
	}
	return action;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
