/* Reading packets. */
#ifndef PACKET_H
#define PACKET_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "maps.h"

#define inline_always static __always_inline

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define FRAGMENT_OFFSET 0x1fff
#define MORE_FRAGMENTS 0x2000
#define ICMP_ECHO_REPLY 0
#define ICMP_ECHO 8
#define NANOSECONDS 1000000000ull

enum pinned { NOT_PINNED, PINNED_FORWARDED, PINNED_TO_CACHE, PINNED_TO_LOST, PINNED_FOR_NOTHING };

/* One packet and what is decided about it. Numbers in host order. */
struct packet {
	__u32 source, destination;
	__u16 source_port, destination_port; /* 0 where a packet has none */
	__u32 protocol;
	__u32 offset; /* of the IP header */
	__u32 header_octets; /* of the IP header */
	__u32 octets; /* of the IP packet */
	__u32 identification;
	__u32 fragment;
	__u8 ttl;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 is_error; /* ICMP error */
	__u8 flowless; /* ends within its transport header: of no flow */
	__u8 leased;
	__u8 looked_up;
	__u8 pinned; /* enum pinned */
	struct pin pin;
	__u32 now_seconds;

	/* decided */
	__u32 slot;
	__u32 header; /* redirect header */
	__u32 cell;
	__u8 pin_it; /* the flow is to be held to `new_pin` */
	__u8 unused[3];
	struct pin new_pin;
};

inline_always void count(__u32 cell, __u32 octets)
{
	struct count *found = bpf_map_lookup_elem(&counters, &cell);

	if (found) {
		found->packets++;
		found->octets += octets;
	}
}

/* The number of the lowest bit that is set: how many are below it. clang 14 cannot do __builtin_ctzll for BPF. */
inline_always __u32 lowest(__u64 bits)
{
	bits = ~bits & (bits - 1);
	bits -= bits >> 1 & 0x5555555555555555ull;
	bits = (bits & 0x3333333333333333ull) + (bits >> 2 & 0x3333333333333333ull);
	bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0full;
	return bits * 0x0101010101010101ull >> 56;
}

/* The kernel gives us the first octets in a row in almost all cases; where it does not, make it. */
inline_always int has_headers(struct __sk_buff *context, __u32 octets)
{
	return (void *)(long)context->data + octets <= (void *)(long)context->data_end ||
	       !bpf_skb_pull_data(context, octets);
}

inline_always int has_ports(__u32 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

inline_always int is_icmp_error(__u32 type)
{
	return type == 3 || type == 4 || type == 5 || type == 11 || type == 12; /* RFC 1122, 3.2.2 */
}

inline_always __u32 transport_header_octets(__u32 protocol)
{
	return protocol == IPPROTO_TCP ? 20 : protocol == IPPROTO_UDP || protocol == IPPROTO_ICMP ? 8 : 0;
}

/* Ports, flags and type; an echo's identifier serves as both ports of its flow. */
inline_always void read_transport(struct __sk_buff *context, struct packet *packet)
{
	__u32 begin = packet->offset + packet->header_octets;
	__u32 has = packet->octets - packet->header_octets;
	__u8 *octets = (void *)(long)context->data + begin;
	__u8 copied[16] = {};

	if (has >= sizeof(copied) && octets + sizeof(copied) <= (__u8 *)(long)context->data_end)
		__builtin_memcpy(copied, octets, sizeof(copied));
	else if (has >= sizeof(copied))
		bpf_skb_load_bytes(context, begin, copied, sizeof(copied));
	else if (has >= 8)
		bpf_skb_load_bytes(context, begin, copied, 8);
	else if (has >= 4)
		bpf_skb_load_bytes(context, begin, copied, 4);
	/* The first fragment has at least eight; the kernel would look at the whole packet. */
	packet->flowless = has < transport_header_octets(packet->protocol) && !packet->fragment;
	if (has_ports(packet->protocol)) {
		packet->source_port = copied[0] << 8 | copied[1];
		packet->destination_port = copied[2] << 8 | copied[3];
		if (packet->protocol == IPPROTO_TCP)
			packet->tcp_flags = copied[13];
	} else if (packet->protocol == IPPROTO_ICMP && has >= 8) {
		packet->icmp_type = copied[0];
		packet->is_error = is_icmp_error(copied[0]);
	}
}

/* An IPv4 packet; 0 if the kernel's own checks must deal with it. */
inline_always int read_packet(struct __sk_buff *context, __u32 offset, struct packet *packet)
{
	struct iphdr *ip;

	if (!has_headers(context, offset + sizeof(*ip)))
		return 0;
	ip = (void *)(long)context->data + offset;
	if ((void *)(ip + 1) > (void *)(long)context->data_end)
		return 0;
	packet->offset = offset;
	packet->header_octets = (*(__u8 *)ip & 0xf) * 4;
	packet->octets = bpf_ntohs(ip->tot_len);
	if (*(__u8 *)ip >> 4 != 4 || packet->header_octets < sizeof(*ip))
		return 0;
	if (packet->octets < packet->header_octets || offset + packet->octets > context->len)
		return 0;
	packet->source = bpf_ntohl(ip->saddr);
	packet->destination = bpf_ntohl(ip->daddr);
	packet->protocol = ip->protocol;
	packet->identification = bpf_ntohs(ip->id);
	packet->fragment = bpf_ntohs(ip->frag_off) & (FRAGMENT_OFFSET | MORE_FRAGMENTS);
	packet->ttl = ip->ttl;
	if (!(packet->fragment & FRAGMENT_OFFSET))
		read_transport(context, packet);
	return 1;
}

inline_always struct plan *current_plan(void)
{
	__u32 zero = 0;
	void *inner = bpf_map_lookup_elem(&plans, &zero);

	return inner ? bpf_map_lookup_elem(inner, &zero) : 0;
}

inline_always __u64 heap(const struct plan *plan, __u32 word)
{
	return plan->heap[word & (HEAP_WORDS - 1)];
}

/* The value of the range that a number is in; ranges begin with 0 and are sorted. */
static __noinline __u32 range_of(const struct plan *plan, __u32 first, __u32 ranges, __u32 number)
{
	for (int step = 0; step < 14 && ranges > 1; step++) {
		__u32 half = ranges >> 1;

		if ((__u32)(heap(plan, first + half) >> 32) <= number)
			first += half;
		ranges -= half;
	}
	return heap(plan, first);
}

/* What is known of an address, HOST_*; 0 for nothing. */
inline_always __u32 host(const struct plan *plan, __u32 address)
{
	__u32 place = address * 0x9e3779b1u >> 12;

	for (int probe = 0; probe < PROBES; probe++) {
		__u64 entry = heap(plan, plan->hosts + (place++ & plan->hosts_mask));

		if (!(__u32)entry)
			return 0;
		if (entry >> 32 == address)
			return entry;
	}
	return 0;
}

#endif
