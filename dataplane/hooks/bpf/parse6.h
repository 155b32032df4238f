/*
 * IPv6, as far as the hooks need it: the chain of headers, and what neighbour discovery claims.
 *
 * As in parse.h, what is malformed is left for the worker to name (KIND_WORKER) before anything can
 * be the kernel's. The chain is walked within fixed bounds; a packet whose upper-layer header is
 * not found is never taken for harmless (RFC 7113). Sources: RFC 8200, RFC 4861, RFC 7112,
 * RFC 6946, RFC 5722, RFC 6980.
 */
#pragma once

#include <linux/ipv6.h>

#include "parse.h"

#define IP6_HEADER_BYTES 40
#define IP6_HEADERS_MAX 8   /* extension headers */
#define IP6_CHAIN_BYTES_MAX 256
#define UPPER6_OFFSET (ETH_HLEN + IP6_HEADER_BYTES) /* without extension headers */

#define IP6_MORE_FRAGMENTS 1
#define IP6_FRAGMENT_OFFSET 0xfff8
#define IP6_ROUTING_TYPE_0 0

#define ICMP6_ECHO_REQUEST 128
#define ICMP6_ECHO_REPLY 129
#define ICMP6_MLD_REPORT 131
#define ICMP6_MLD_DONE 132
#define ICMP6_ROUTER_SOLICITATION 133
#define ICMP6_ROUTER_ADVERTISEMENT 134
#define ICMP6_NEIGHBOR_SOLICITATION 135
#define ICMP6_NEIGHBOR_ADVERTISEMENT 136
#define ICMP6_REDIRECT 137
#define ICMP6_MLD2_REPORT 143

#define ND_HOP_LIMIT 255
#define ND_OPTIONS_MAX 4
#define ND_OPTION_SOURCE_MAC 1
#define ND_OPTION_TARGET_MAC 2

/* What the walk along the headers found. */
struct upper {
	__u32 at;	       /* offset of the header behind the chain, from the IPv6 payload */
	__u8 protocol;	       /* of that header */
	__u8 datagram;	       /* what every fragment of the datagram names as its protocol */
	__u8 found;	       /* whether `at` is known: not in later fragments */
	__u8 extended;	       /* extension headers come before it */
};

/* Every extension header begins so (RFC 6564); a fragment header goes on in `fragment`. */
struct extension {
	__u8 next;
	__u8 length;
	__be16 fragment;
	__be32 fragment_id;
};

/* Neighbour solicitation and advertisement, RFC 4861 4.3 and 4.4. */
struct nd_message {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 flags;
	struct address6 target;
};

/* An option of 8 bytes: a link-layer address. */
struct nd_option {
	__u8 type;
	__u8 length; /* in units of 8 bytes */
	__u8 mac[ETH_ALEN];
};

static __always_inline int same6(const struct address6 *a, const struct address6 *b)
{
	return !((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) |
		 (a->word[2] ^ b->word[2]) | (a->word[3] ^ b->word[3]));
}

static __always_inline int is_unspecified6(const struct address6 *a)
{
	return !(a->word[0] | a->word[1] | a->word[2] | a->word[3]);
}

static __always_inline int is_link_local6(const struct address6 *a)
{
	return (a->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline int is_multicast6(const struct address6 *a)
{
	return (a->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

/* ::, ::1 and ::ffff:0:0/96 never travel. */
static __always_inline int is_martian6(const struct address6 *a)
{
	if (a->word[0] | a->word[1])
		return 0;
	if (a->word[2] == bpf_htonl(0xffff))
		return 1;
	return !a->word[2] && (!a->word[3] || a->word[3] == bpf_htonl(1));
}

/* The solicited-node group of `a`, RFC 4291 2.7.1. */
static __always_inline int is_solicited_node(const struct address6 *group,
					     const struct address6 *a)
{
	return group->word[0] == bpf_htonl(0xff020000) && !group->word[1] &&
	       group->word[2] == bpf_htonl(1) &&
	       group->word[3] == (a->word[3] | bpf_htonl(0xff000000));
}

/* The fixed IPv6 header of an IPv6 packet, or null when it is cut or of another version. */
static __always_inline struct ipv6hdr *ip6_header(const struct frame *frame)
{
	struct ipv6hdr *ip = frame->data + ETH_HLEN;

	if ((void *)(ip + 1) > frame->data_end || ip->version != 6)
		return 0;
	return ip;
}

static __always_inline const struct address6 *source6(const struct ipv6hdr *ip)
{
	return (const struct address6 *)&ip->saddr;
}

static __always_inline const struct address6 *destination6(const struct ipv6hdr *ip)
{
	return (const struct address6 *)&ip->daddr;
}

static __always_inline int is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
	       protocol == IPPROTO_FRAGMENT || protocol == IPPROTO_AH ||
	       protocol == IPPROTO_DSTOPTS;
}

static __always_inline __u32 upper_bytes(__u8 protocol)
{
	if (protocol == IPPROTO_TCP)
		return TCP_HEADER_BYTES;
	return protocol == IPPROTO_UDP || protocol == IPPROTO_ICMPV6 ? UDP_HEADER_BYTES : 0;
}

/* A fragment of `bytes` of its datagram's payload: KIND_FRAGMENT, or the drop it deserves. */
static __always_inline __u32 fragment6_kind(__u16 word, __u8 protocol, __u32 bytes)
{
	__u32 offset = word & IP6_FRAGMENT_OFFSET;

	if ((word & IP6_MORE_FRAGMENTS) && bytes % 8)
		return DROP(DROP_FRAG_LEN);
	if (offset + bytes > 65535)
		return DROP(DROP_FRAG_TOOLONG);
	if (offset == 8 && protocol == IPPROTO_TCP)
		return DROP(DROP_FRAG_OFFSET1);
	return KIND_FRAGMENT;
}

/* A walk along the headers, while it lasts. */
struct walk {
	__u32 at;
	__u32 kind;
	__u8 next;
	__u8 fragmented;
};

/* Takes a fragment header; returns whether the walk goes on. */
static __always_inline int pass_fragment(struct walk *walk, const struct extension *header,
					 __u32 payload, struct upper *upper)
{
	__u16 word = bpf_ntohs(header->fragment);

	walk->at += sizeof(*header);
	if (walk->fragmented) {
		walk->kind = KIND_WORKER;
		return 0;
	}
	walk->fragmented = 1;
	upper->datagram = header->next;
	upper->protocol = header->next;
	if (!(word & (IP6_FRAGMENT_OFFSET | IP6_MORE_FRAGMENTS)))
		return 1;
	walk->kind = fragment6_kind(word, header->next, payload - walk->at);
	return walk->kind == KIND_FRAGMENT && !(word & IP6_FRAGMENT_OFFSET);
}

/* Takes one extension header; returns whether the walk goes on. */
static __always_inline int pass_extension(const struct frame *frame, struct walk *walk,
					  __u32 payload, struct upper *upper)
{
	struct extension *header = frame->data + UPPER6_OFFSET + walk->at;
	__u8 kind = walk->next;

	if (walk->at + sizeof(*header) > payload || (void *)(header + 1) > frame->data_end) {
		/* RFC 7112: a first fragment holds all headers. */
		walk->kind = walk->kind == KIND_FRAGMENT ? DROP(DROP_FRAG_NOCHAIN) : KIND_WORKER;
		return 0;
	}
	if ((kind == IPPROTO_HOPOPTS && walk->at) ||
	    (kind == IPPROTO_ROUTING && !(header->fragment & bpf_htons(0xff00)))) {
		walk->kind = KIND_WORKER;
		return 0;
	}
	walk->next = header->next;
	if (kind == IPPROTO_FRAGMENT)
		return pass_fragment(walk, header, payload, upper);
	walk->at += kind == IPPROTO_AH ? (header->length + 2) * 4 : (header->length + 1) * 8;
	return 1;
}

/*
 * Walks the chain of headers: enum ip_kind, or a drop. An atomic fragment (RFC 6946) is a whole
 * packet. A chain that is too long for the bounds is the worker's to name.
 */
static __always_inline __u32 ip6_kind(const struct frame *frame, const struct ipv6hdr *ip,
				      struct upper *upper)
{
	struct walk walk = { .kind = KIND_PLAIN, .next = ip->nexthdr };
	__u32 payload = bpf_ntohs(ip->payload_len);
	int i;

	upper->at = 0;
	upper->protocol = walk.next;
	upper->datagram = walk.next;
	upper->found = 0;
	upper->extended = is_extension(walk.next);
	if (payload > frame->length - UPPER6_OFFSET)
		return KIND_WORKER;
	for (i = 0; i < IP6_HEADERS_MAX && is_extension(walk.next); i++)
		if (walk.at > IP6_CHAIN_BYTES_MAX || !pass_extension(frame, &walk, payload, upper))
			return walk.at > IP6_CHAIN_BYTES_MAX ? KIND_WORKER : walk.kind;
	if (is_extension(walk.next) || walk.at > IP6_CHAIN_BYTES_MAX)
		return KIND_WORKER;
	upper->at = walk.at;
	upper->protocol = walk.next;
	upper->found = 1;
	if (!walk.fragmented)
		upper->datagram = walk.next;
	if (walk.kind == KIND_FRAGMENT && payload - walk.at < upper_bytes(walk.next))
		return DROP(DROP_FRAG_NOCHAIN);
	return walk.kind;
}

/* As l4_ports of parse.h; only for packets that are not fragments. */
static __always_inline void l4_ports6(const struct frame *frame, const struct upper *upper,
				      __u16 *sport, __u16 *dport)
{
	__u32 at = upper->at;
	__be16 *ports;
	__u8 *icmp;

	*sport = 0;
	*dport = 0;
	if (at > IP6_CHAIN_BYTES_MAX)
		return;
	ports = frame->data + UPPER6_OFFSET + at;
	icmp = (void *)ports;
	if (upper->protocol == IPPROTO_TCP || upper->protocol == IPPROTO_UDP) {
		if ((void *)(ports + 2) > frame->data_end)
			return;
		*sport = bpf_ntohs(ports[0]);
		*dport = bpf_ntohs(ports[1]);
	} else if (upper->protocol == IPPROTO_ICMPV6) {
		if ((void *)(icmp + 8) > frame->data_end)
			return;
		if (icmp[0] == ICMP6_ECHO_REQUEST || icmp[0] == ICMP6_ECHO_REPLY)
			*sport = bpf_ntohs(*(__be16 *)(icmp + 4));
	}
}

/* The type of an ICMPv6 message, or 0 (reserved) for what is none or is cut. */
static __always_inline __u8 icmp6_type(const struct frame *frame, const struct upper *upper)
{
	__u32 at = upper->at;
	__u8 *icmp;

	if (!upper->found || upper->protocol != IPPROTO_ICMPV6 || at > IP6_CHAIN_BYTES_MAX)
		return 0;
	icmp = frame->data + UPPER6_OFFSET + at;
	return (void *)(icmp + 8) > frame->data_end ? 0 : icmp[0];
}

static __always_inline int is_nd(__u8 type)
{
	return type >= ICMP6_ROUTER_SOLICITATION && type <= ICMP6_REDIRECT;
}
