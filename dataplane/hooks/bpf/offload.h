/*
 * Which packets may take a flow's shortcut, and arithmetic on their checksums.
 *
 * A shortcut is for whole, plain packets in the middle of a flow. What opens, closes or resets a
 * connection, what is fragmented or carries options, what expires and what is malformed goes to
 * the worker, which knows what to do with it. So does a trailer that a hook cannot cut.
 */
#pragma once

#include "flow.h"
#include "parse6.h"

#define TCP_FLAGS_AT 13
#define TCP_FIN_SYN_RST 0x07

/* The L4 header of a packet that may be offloaded. */
struct l4 {
	__be16 source_port;
	__be16 destination_port;
	__u8 header_bytes;
	__u8 checksum_at; /* offset within the header */
	__u8 id_at;	  /* offset of the echo identifier; 0 for protocols with ports */
	__u8 protocol;
	__u16 trailer; /* bytes of the frame behind the IP packet */
};

static __always_inline int tcp_of(const void *header, const void *end, __u32 length, struct l4 *l4)
{
	const __u8 *bytes = header;

	if (header + TCP_HEADER_BYTES > end || (bytes[TCP_FLAGS_AT] & TCP_FIN_SYN_RST))
		return 0;
	l4->header_bytes = (bytes[12] >> 4) * 4;
	l4->checksum_at = 16;
	return l4->header_bytes >= TCP_HEADER_BYTES && l4->header_bytes <= length;
}

static __always_inline int udp_of(const void *header, const void *end, __u32 length, struct l4 *l4)
{
	const __be16 *words = header;

	if (header + UDP_HEADER_BYTES > end)
		return 0;
	l4->header_bytes = UDP_HEADER_BYTES;
	l4->checksum_at = 6;
	return bpf_ntohs(words[2]) == length;
}

static __always_inline int echo_of(const void *header, const void *end, __u8 request, __u8 reply,
				   struct l4 *l4)
{
	const __u8 *bytes = header;

	if (header + UDP_HEADER_BYTES > end || bytes[1])
		return 0;
	l4->id_at = 4;
	l4->checksum_at = 2;
	l4->header_bytes = UDP_HEADER_BYTES;
	l4->source_port = 0;
	l4->destination_port = 0;
	if (bytes[0] == request)
		l4->source_port = *(const __be16 *)(bytes + 4);
	else if (bytes[0] == reply)
		l4->destination_port = *(const __be16 *)(bytes + 4);
	else
		return 0;
	return 1;
}

/* Reads the L4 header at `at`, of a packet that has `length` bytes from there on; whether it may
 * be offloaded. */
static __always_inline int l4_of(const struct frame *frame, __u32 at, __u8 protocol, __u32 length,
				 struct l4 *l4)
{
	const void *header = frame->data + at, *end = frame->data_end;
	const __be16 *ports = header;

	l4->protocol = protocol;
	l4->id_at = 0;
	if (protocol == IPPROTO_ICMP)
		return echo_of(header, end, ICMP_ECHO_REQUEST, ICMP_ECHO_REPLY, l4);
	if (protocol == IPPROTO_ICMPV6)
		return echo_of(header, end, ICMP6_ECHO_REQUEST, ICMP6_ECHO_REPLY, l4);
	if (protocol == IPPROTO_TCP ? !tcp_of(header, end, length, l4)
				    : protocol != IPPROTO_UDP || !udp_of(header, end, length, l4))
		return 0;
	if (header + 4 > end)
		return 0;
	l4->source_port = ports[0];
	l4->destination_port = ports[1];
	return 1;
}

/* One's complement sum of an IPv4 header without options, as its words lie. */
static __always_inline __u16 ip4_sum(const struct iphdr *ip)
{
	const __u32 *word = (const __u32 *)ip;
	__u64 sum = (__u64)word[0] + word[1] + word[2] + word[3] + word[4];

	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* RFC 1624: `check` after `before` became `after`, all as they lie in the packet. */
static __always_inline __u16 checksum_after(__u16 check, __u32 before, __u32 after)
{
	__u64 sum = (__u16)~check + (__u64)(__u32)~before + after;

	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

/* A key for a whole IPv4 packet without options; whether it may be offloaded. */
static __always_inline int flow_key4_of(const struct frame *frame, const struct iphdr *ip,
					__u8 zone, struct flow_key4 *key, struct l4 *l4)
{
	__u32 total = bpf_ntohs(ip->tot_len);

	l4->trailer = frame->length - ETH_HLEN - total;
	if (ip->ttl <= 1 || ip4_sum(ip) != 0xffff ||
	    ip->protocol == IPPROTO_ICMPV6 ||
	    !l4_of(frame, L4_OFFSET, ip->protocol, total - IP4_HEADER_BYTES, l4))
		return 0;
	*key = (struct flow_key4){
		.source = ip->saddr,
		.destination = ip->daddr,
		.source_port = l4->source_port,
		.destination_port = l4->destination_port,
		.protocol = ip->protocol,
		.zone = zone,
	};
	return 1;
}

/* The same for IPv6 without extension headers. */
static __always_inline int flow_key6_of(const struct frame *frame, const struct ipv6hdr *ip,
					__u8 zone, struct flow_key6 *key, struct l4 *l4)
{
	__u32 length = bpf_ntohs(ip->payload_len);

	l4->trailer = frame->length - UPPER6_OFFSET - length;
	if (ip->hop_limit <= 1 ||
	    ip->nexthdr == IPPROTO_ICMP || !l4_of(frame, UPPER6_OFFSET, ip->nexthdr, length, l4))
		return 0;
	*key = (struct flow_key6){
		.source = *source6(ip),
		.destination = *destination6(ip),
		.source_port = l4->source_port,
		.destination_port = l4->destination_port,
		.protocol = ip->nexthdr,
		.zone = zone,
	};
	return 1;
}
