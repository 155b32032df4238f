/*
 * Bytes to meaning, as far as the hooks need it.
 *
 * Header fields are read after one bounds check each against `data_end`; nothing is trusted.
 * What is malformed in a way that cannot reach the kernel's options or fragment code is left
 * for the worker to name (KIND_WORKER); what would reach it is named here. Sources: RFC 791,
 * RFC 826, RFC 1858, RFC 3128.
 */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>

#include "count.h"

#define VLAN_HEADER_BYTES 4
#define IP4_HEADER_BYTES 20
#define IP4_OPTION_BYTES_MAX 40
#define IP4_PAYLOAD_BYTES_MAX (65535 - IP4_HEADER_BYTES)
#define L4_OFFSET (ETH_HLEN + IP4_HEADER_BYTES) /* without options */
#define TCP_HEADER_BYTES 20
#define UDP_HEADER_BYTES 8
#define ICMP_ECHO_REPLY 0
#define ICMP_ECHO_REQUEST 8

#define IP4_MORE_FRAGMENTS 0x2000
#define IP4_FRAGMENT_OFFSET 0x1fff

#define IP4_OPTION_END 0
#define IP4_OPTION_NOP 1
#define IP4_OPTION_LSRR 131
#define IP4_OPTION_SSRR 137

/* Where a packet's bytes are. `length` counts the whole frame, also what lies past `data_end`. */
struct frame {
	void *data;
	void *data_end;
	__u32 length;
};

/* Ethernet/IPv4 ARP, RFC 826. */
struct arp_ip4 {
	__be16 hardware_type;
	__be16 protocol_type;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender_ip[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target_ip[4];
} __attribute__((packed));

/* Kinds of IP packet; values from OUTCOME_DROP up are drops. */
enum ip_kind {
	KIND_PLAIN,    /* whole, without IPv4 options */
	KIND_FRAGMENT, /* a well-formed fragment, with or without options */
	KIND_OPTIONS,  /* whole, with well-formed IPv4 options: the kernel's */
	KIND_WORKER,   /* malformed; the worker names it */
};

static __always_inline int mac_equal(const __u8 *a, const __u8 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] &&
	       a[5] == b[5];
}

static __always_inline int mac_is_group(const __u8 *mac)
{
	return mac[0] & 1;
}

static __always_inline int mac_is_broadcast(const __u8 *mac)
{
	return (mac[0] & mac[1] & mac[2] & mac[3] & mac[4] & mac[5]) == 0xff;
}

static __always_inline int mac_is_zero(const __u8 *mac)
{
	return !(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]);
}

static __always_inline int ethertype_is_vlan(__be16 ethertype)
{
	return ethertype == bpf_htons(ETH_P_8021Q) || ethertype == bpf_htons(ETH_P_8021AD) ||
	       ethertype == bpf_htons(ETH_P_QINQ1);
}

/* The Ethernet header, or null for a frame that ends inside it or inside its VLAN tag. */
static __always_inline struct ethhdr *ethernet(const struct frame *frame)
{
	struct ethhdr *eth = frame->data;

	if ((void *)(eth + 1) > frame->data_end)
		return 0;
	if (ethertype_is_vlan(eth->h_proto) && frame->length < ETH_HLEN + VLAN_HEADER_BYTES)
		return 0;
	return eth;
}

/* A well-formed Ethernet/IPv4 ARP message, or null. */
static __always_inline struct arp_ip4 *arp_message(const struct frame *frame)
{
	struct arp_ip4 *arp = frame->data + ETH_HLEN;

	if ((void *)(arp + 1) > frame->data_end)
		return 0;
	if (arp->hardware_type != bpf_htons(1) || arp->protocol_type != bpf_htons(ETH_P_IP))
		return 0;
	if (arp->hardware_len != ETH_ALEN || arp->protocol_len != 4)
		return 0;
	return arp;
}

/* The fixed IPv4 header of an IPv4 packet, or null when it is cut or of another version. */
static __always_inline struct iphdr *ip4_header(const struct frame *frame)
{
	struct iphdr *ip = frame->data + ETH_HLEN;

	if ((void *)(ip + 1) > frame->data_end || ip->version != 4)
		return 0;
	return ip;
}

/* Whether what an IPv6 EtherType announces is IPv6. */
static __always_inline int is_ip6(const struct frame *frame)
{
	__u8 *first = frame->data + ETH_HLEN;

	return (void *)(first + 1) <= frame->data_end && *first >> 4 == 6;
}

/* RFC 1858 and RFC 3128: fragments made to hide an L4 header are dropped by name. */
static __always_inline __u32 fragment_kind(const struct iphdr *ip, __u32 payload_bytes)
{
	__u32 offset = bpf_ntohs(ip->frag_off) & IP4_FRAGMENT_OFFSET;
	__u32 needed = 0;

	if (offset * 8 + payload_bytes > IP4_PAYLOAD_BYTES_MAX)
		return DROP(DROP_FRAG_TOOLONG);
	if (offset == 1 && ip->protocol == IPPROTO_TCP)
		return DROP(DROP_FRAG_OFFSET1);
	if (offset)
		return KIND_FRAGMENT;
	if (ip->protocol == IPPROTO_TCP)
		needed = TCP_HEADER_BYTES;
	else if (ip->protocol == IPPROTO_UDP || ip->protocol == IPPROTO_ICMP)
		needed = UDP_HEADER_BYTES;
	return payload_bytes < needed ? DROP(DROP_FRAG_TINY) : KIND_FRAGMENT;
}

/*
 * Walks the options of a header of `header_bytes`, all of it within the frame. Visits every byte
 * and skips those inside an option: the verifier then knows each offset and need not follow every
 * sequence of lengths, which takes it seconds.
 */
static __always_inline __u32 options_kind(const struct frame *frame, __u32 header_bytes)
{
	__u32 next = IP4_HEADER_BYTES, at;
	__u8 *option;

	for (at = IP4_HEADER_BYTES; at < IP4_HEADER_BYTES + IP4_OPTION_BYTES_MAX; at++) {
		if (at >= header_bytes)
			break;
		if (at < next)
			continue;
		option = frame->data + ETH_HLEN + at;
		if ((void *)(option + 1) > frame->data_end)
			return DROP(DROP_IP4_OPT);
		if (option[0] == IP4_OPTION_END)
			break;
		next = at + 1;
		if (option[0] == IP4_OPTION_NOP)
			continue;
		if (option[0] == IP4_OPTION_LSRR || option[0] == IP4_OPTION_SSRR)
			return DROP(DROP_IP4_SRCROUTE);
		if (next >= header_bytes || (void *)(option + 2) > frame->data_end)
			return DROP(DROP_IP4_OPT);
		next = at + option[1];
		if (next < at + 2 || next > header_bytes)
			return DROP(DROP_IP4_OPT);
	}
	return KIND_OPTIONS;
}

/* What kind of IPv4 packet this is: enum ip_kind, or a drop. */
static __always_inline __u32 ip4_kind(const struct frame *frame, const struct iphdr *ip)
{
	__u32 header_bytes = ip->ihl * 4;
	__u32 total_bytes = bpf_ntohs(ip->tot_len);
	__u32 kind = KIND_PLAIN;

	if (header_bytes < IP4_HEADER_BYTES || total_bytes < header_bytes ||
	    total_bytes > frame->length - ETH_HLEN)
		return KIND_WORKER;
	if (header_bytes > IP4_HEADER_BYTES) {
		kind = options_kind(frame, header_bytes);
		if (kind >= OUTCOME_DROP)
			return kind;
	}
	if (ip->frag_off & bpf_htons(IP4_MORE_FRAGMENTS | IP4_FRAGMENT_OFFSET))
		return fragment_kind(ip, total_bytes - header_bytes);
	return kind;
}

/*
 * Both L4 ports in the form the flow hash takes; zeros when there are none. Only for packets
 * whose header length is IP4_HEADER_BYTES and that are not fragments.
 */
static __always_inline void l4_ports(const struct frame *frame, __u8 protocol, __u16 *sport,
				     __u16 *dport)
{
	__be16 *ports = frame->data + L4_OFFSET;
	__u8 *icmp = frame->data + L4_OFFSET;

	*sport = 0;
	*dport = 0;
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) {
		if ((void *)(ports + 2) > frame->data_end)
			return;
		*sport = bpf_ntohs(ports[0]);
		*dport = bpf_ntohs(ports[1]);
	} else if (protocol == IPPROTO_ICMP) {
		if ((void *)(icmp + 8) > frame->data_end)
			return;
		if (icmp[0] != ICMP_ECHO_REPLY && icmp[0] != ICMP_ECHO_REQUEST)
			return;
		*sport = bpf_ntohs(*(__be16 *)(icmp + 4));
	}
}

/* 0/8, 127/8, 224/4 and 240/4 cannot be anybody's source address. */
static __always_inline int is_martian_source(__be32 address)
{
	__u32 host = bpf_ntohl(address);
	__u32 first = host >> 24;

	return first == 0 || first == 127 || first >= 224;
}

/* 0/8 and 127/8 must never arrive from a wire (CVE-2020-8558). */
static __always_inline int is_martian_destination(__be32 address)
{
	__u32 first = bpf_ntohl(address) >> 24;

	return first == 0 || first == 127;
}

static __always_inline int is_multicast(__be32 address)
{
	return (bpf_ntohl(address) >> 28) == 14;
}

static __always_inline int is_broadcast(__be32 address)
{
	return address == 0xffffffff;
}
