/* What is done to packets: on their way to a cache, back from one, or back to their sender. */
#ifndef SEND_H
#define SEND_H

#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include "classify.h"

#define GRE_PROTOCOL_WCCP 0x883e
#define OUTER_TTL 255
#define DONT_FRAGMENT 0x4000
#define ANSWERS_PER_SECOND 1000
#define ICMP_UNREACHABLE 3
#define ICMP_FRAGMENTATION_NEEDED 4
#define ICMP_PROHIBITED 13

/* <linux/icmp.h> wants headers of the C library. */
struct icmp {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be16 unused;
	__be16 mtu;
};

struct gre {
	__be16 flags_and_version;
	__be16 protocol;
	__be32 redirect_header;
};

struct outer {
	struct iphdr ip;
	struct gre gre;
};

inline_always __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* RFC 1071, of an IP header without options whose checksum field is 0. */
inline_always __u16 ip_checksum(const struct iphdr *ip)
{
	const __u16 *words = (const void *)ip;
	__u32 sum = 0;

	for (int word = 0; word < 10; word++)
		sum += words[word];
	return folded(sum);
}

/* One hop less, and the checksum by RFC 1624; 0 if the packet cannot be written. */
inline_always int make_hop(struct __sk_buff *context, __u32 offset)
{
	struct iphdr *ip = (void *)(long)context->data + offset;
	__u32 sum;

	if ((void *)(ip + 1) > (void *)(long)context->data_end)
		return 0;
	sum = (__u32)ip->check + bpf_htons(0x0100);
	ip->check = sum + (sum >= 0xffff);
	ip->ttl--;
	return 1;
}

/* Lower the MSS of a SYN to what fits (RFC 879, RFC 6691). */
__noinline int clamp(struct __sk_buff *context, __u32 begin, __u32 greatest)
{
	__u32 end, place = sizeof(struct tcphdr);
	__u8 octet = 0, option[2] = {};
	__be16 old, new = bpf_htons(greatest);

	if (bpf_skb_load_bytes(context, begin + 12, &octet, 1))
		return 0;
	end = (octet >> 4) * 4;
	for (int number = 0; number < 20 && place + 4 <= end; number++) {
		if (bpf_skb_load_bytes(context, begin + place, option, 2) || option[0] == 0)
			return 0;
		if (option[0] == 2)
			break;
		if (option[0] == 1)
			option[1] = 1;
		/* The mask says to the verifier what is so anyway. */
		place = (place + option[1]) & 63;
		if (place < sizeof(struct tcphdr) + 1)
			return 0;
	}
	if (option[0] != 2 || option[1] != 4 || bpf_skb_load_bytes(context, begin + place + 2, &old, 2) ||
	    bpf_ntohs(old) <= greatest)
		return 0;
	/* At an odd place the octets are summed the other way round. */
	bpf_l4_csum_replace(context, begin + 16, place & 1 ? __builtin_bswap16(old) : old,
			    place & 1 ? __builtin_bswap16(new) : new, 2);
	return bpf_skb_store_bytes(context, begin + place + 2, &new, 2, 0);
}

/* The longest IP packet that will be on the wire: a super-packet is cut into segments first. */
inline_always __u32 wire_octets(struct __sk_buff *context, const struct packet *packet)
{
	__u32 header = packet->header_octets;
	__u8 octet = 0;

	if (!context->gso_size)
		return packet->octets;
	if (packet->protocol == IPPROTO_TCP) {
		bpf_skb_load_bytes(context, packet->offset + header + 12, &octet, 1);
		return header + (octet >> 4) * 4 + context->gso_size;
	}
	return header + 8 + context->gso_size;
}

/* -- answers ------------------------------------------------------------------------------------------ */

inline_always int may_answer(const struct packet *packet)
{
	__u32 zero = 0;
	__u64 *sent = bpf_map_lookup_elem(&answers, &zero);

	if (!sent)
		return 0;
	if (*sent >> 32 != packet->now_seconds)
		*sent = (__u64)packet->now_seconds << 32;
	if ((__u32)*sent >= ANSWERS_PER_SECOND)
		return 0;
	(*sent)++;
	return 1;
}

/* Put `octets` in place of the packet's beginning and send it back to where it came from.
 *
 * What was there stays behind the new packet's end, beyond its total length, where receivers ignore it: if the
 * sender left its checksum to the device, that writes it there and not into ours.
 */
#define send_back(context, packet, octets, is_ethernet)                                                        \
	({                                                                                                     \
		__u32 keep_ = (packet)->offset + (packet)->header_octets + sizeof(struct tcphdr);              \
		__u8 macs_[12];                                                                                \
		int verdict_ = TC_ACT_SHOT;                                                                    \
                                                                                                               \
		if (((context)->len <= keep_ || !bpf_skb_change_tail(context, keep_, 0)) &&                    \
		    !bpf_skb_adjust_room(context, sizeof(octets), BPF_ADJ_ROOM_MAC, 0) &&                      \
		    !bpf_skb_store_bytes(context, (packet)->offset, &(octets), sizeof(octets),                 \
					 BPF_F_INVALIDATE_HASH)) {                                             \
			if ((is_ethernet) && !bpf_skb_load_bytes(context, 0, macs_, 12)) {                     \
				bpf_skb_store_bytes(context, 0, macs_ + 6, 6, 0);                              \
				bpf_skb_store_bytes(context, 6, macs_, 6, 0);                                  \
			}                                                                                      \
			verdict_ = bpf_redirect((context)->ifindex, 0);                                        \
		} else {                                                                                       \
			count(DROPPED_NO_ROOM, (packet)->octets);                                              \
		}                                                                                              \
		verdict_;                                                                                      \
	})

inline_always void answer_header(struct iphdr *ip, __u32 octets, __u32 protocol, __be32 source, __u32 destination)
{
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(octets);
	ip->frag_off = bpf_htons(DONT_FRAGMENT);
	ip->ttl = 64;
	ip->protocol = protocol;
	ip->saddr = source;
	ip->daddr = bpf_htonl(destination);
	ip->check = ip_checksum(ip);
}

/* A reset as the destination would send it (RFC 9293, 3.10.7.1). */
static __noinline int reset(struct __sk_buff *context, struct packet *packet, int is_ethernet)
{
	struct {
		struct iphdr ip;
		struct tcphdr tcp;
	} octets = {};
	struct tcphdr old = {};
	__u32 data, sum;

	if (packet->tcp_flags & TCP_RST || packet->flowless || !may_answer(packet) ||
	    bpf_skb_load_bytes(context, packet->offset + packet->header_octets, &old, sizeof(old))) {
		count(DROPPED_UNANSWERED, packet->octets);
		return TC_ACT_SHOT;
	}
	octets.tcp.source = old.dest;
	octets.tcp.dest = old.source;
	octets.tcp.doff = sizeof(octets.tcp) / 4;
	octets.tcp.rst = 1;
	if (old.ack) {
		octets.tcp.seq = old.ack_seq;
	} else {
		data = packet->octets - packet->header_octets - old.doff * 4;
		octets.tcp.ack = 1;
		octets.tcp.ack_seq = bpf_htonl(bpf_ntohl(old.seq) + data + old.syn + old.fin);
	}
	answer_header(&octets.ip, sizeof(octets), IPPROTO_TCP, bpf_htonl(packet->destination), packet->source);
	sum = bpf_csum_diff(0, 0, (void *)&octets.ip.saddr, 8 + sizeof(octets.tcp),
			    bpf_htons(IPPROTO_TCP) + bpf_htons(sizeof(octets.tcp)));
	octets.tcp.check = folded(sum);
	return send_back(context, packet, octets, is_ethernet);
}

/* ICMP: "fragmentation needed" (RFC 1191) if there is an MTU to tell, else "administratively prohibited". */
static __noinline int unreachable(struct __sk_buff *context, struct packet *packet, __be32 router_id, __u32 mtu,
				  int is_ethernet)
{
	struct {
		struct iphdr ip;
		struct icmp icmp;
		__u8 quoted[68]; /* the greatest header and eight octets */
	} octets = {};
	__u32 quoted = packet->header_octets + 8;

	if (quoted > packet->octets)
		quoted = packet->octets;
	if (quoted > sizeof(octets.quoted))
		quoted = sizeof(octets.quoted);
	if (packet->is_error || packet->source >> 28 == 0xe || !packet->source || packet->source == 0xffffffff ||
	    !may_answer(packet) || quoted < 20 ||
	    bpf_skb_load_bytes(context, packet->offset, octets.quoted, quoted)) {
		count(DROPPED_UNANSWERED, packet->octets);
		return TC_ACT_SHOT;
	}
	octets.icmp.type = ICMP_UNREACHABLE;
	octets.icmp.code = mtu ? ICMP_FRAGMENTATION_NEEDED : ICMP_PROHIBITED;
	octets.icmp.mtu = bpf_htons(mtu);
	octets.icmp.checksum = folded(bpf_csum_diff(0, 0, (void *)&octets.icmp, sizeof(octets) - sizeof(octets.ip), 0));
	answer_header(&octets.ip, sizeof(octets.ip) + sizeof(octets.icmp) + quoted, IPPROTO_ICMP, router_id,
		      packet->source);
	return send_back(context, packet, octets, is_ethernet);
}

inline_always int answer(struct __sk_buff *context, const struct plan *plan, struct packet *packet, int is_ethernet)
{
	if (packet->protocol == IPPROTO_TCP)
		return reset(context, packet, is_ethernet);
	return unreachable(context, packet, plan->router_id, 0, is_ethernet);
}

/* -- to a cache -------------------------------------------------------------------------------------------- */

inline_always int push_gre(struct __sk_buff *context, const struct plan *plan, const struct packet *packet,
			   const struct path *path, __u32 offset)
{
	const __u64 flags = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_GRE | BPF_F_ADJ_ROOM_FIXED_GSO;
	__u32 octets = packet->octets + sizeof(struct outer);
	struct outer *outer;

	if (bpf_skb_adjust_room(context, sizeof(*outer), BPF_ADJ_ROOM_MAC, flags))
		return 0;
	outer = (void *)(long)context->data + offset;
	if ((void *)(outer + 1) > (void *)(long)context->data_end)
		return 0;
	__builtin_memset(&outer->ip, 0, sizeof(outer->ip));
	outer->ip.version = 4;
	outer->ip.ihl = 5;
	/* A super-packet may be too long to say so; its segments get lengths of their own. */
	outer->ip.tot_len = octets > 0xffff ? 0 : bpf_htons(octets);
	outer->ip.frag_off = bpf_htons(DONT_FRAGMENT);
	outer->ip.ttl = OUTER_TTL;
	outer->ip.protocol = IPPROTO_GRE;
	outer->ip.saddr = plan->router_id;
	outer->ip.daddr = path->cache;
	outer->ip.check = ip_checksum(&outer->ip);
	outer->gre.flags_and_version = 0;
	outer->gre.protocol = bpf_htons(GRE_PROTOCOL_WCCP);
	outer->gre.redirect_header = bpf_htonl(packet->header);
	return 1;
}

inline_always int send(struct __sk_buff *context, const struct plan *plan, struct packet *packet, int is_ethernet)
{
	const struct path *path = &plan->paths[packet->slot & (SLOTS - 1)];
	/* A constant, which the verifier can follow where it has lost sight of `packet->offset`. */
	__u32 offset = is_ethernet ? ETH_HLEN : 0;
	__u32 room = path->mtu - (path->is_gre ? sizeof(struct outer) : 0);
	struct bpf_redir_neigh hop = { .nh_family = AF_INET, .ipv4_nh = path->next_hop };

	context->cb[0] = packet->slot;
	if (wire_octets(context, packet) > room) {
		count(DROPPED_TOO_BIG, packet->octets);
		return unreachable(context, packet, plan->router_id, room, is_ethernet);
	}
	if (path->mss && (packet->tcp_flags & (TCP_SYN | TCP_RST)) == TCP_SYN)
		clamp(context, packet->offset + packet->header_octets, path->mss);
	if (!make_hop(context, offset) || (path->is_gre && !push_gre(context, plan, packet, path, offset))) {
		count(DROPPED_NO_ROOM, packet->octets);
		return TC_ACT_SHOT;
	}
	/* The kernel takes an Ethernet header off first and drops what has none (__bpf_redirect_neigh). */
	if (!is_ethernet && bpf_skb_change_head(context, ETH_HLEN, 0)) {
		count(DROPPED_NO_ROOM, packet->octets);
		return TC_ACT_SHOT;
	}
	return bpf_redirect_neigh(path->device, &hop, sizeof(hop), 0);
}

/* -- from a cache --------------------------------------------------------------------------------------------- */

/* Lower the MSS of a SYN-ACK on its way to a client whose next packets go through the redirect. */
inline_always void clamp_answer(struct __sk_buff *context, const struct plan *plan, struct packet *packet)
{
	__u32 greatest = plan->least_mss;
	const struct service *service;
	const struct path *path;

	if ((packet->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) != (TCP_SYN | TCP_ACK))
		return;
	packet->now_seconds = bpf_ktime_get_coarse_ns() / NANOSECONDS;
	look_up_flow(plan, packet);
	packet->looked_up = 0;
	service = packet->pinned == PINNED_TO_CACHE ? pinning(plan, &packet->pin) : 0;
	if (service) {
		path = &plan->paths[service->own[packet->pin.slot]];
		greatest = path->is_gre ? path->mss : 0;
	}
	packet->pinned = NOT_PINNED;
	if (greatest)
		clamp(context, packet->offset + packet->header_octets, greatest);
}

/* GRE to the Router ID from a cache that may return packets so: unpack, and let the kernel route what was in it. */
inline_always int take_back(struct __sk_buff *context, const struct plan *plan, const struct packet *packet, int *verdict)
{
	__u32 from = host(plan, packet->source), begin = packet->offset + packet->header_octets;
	struct gre gre;
	struct iphdr inner;
	__u32 octets = 4;

	if (packet->protocol != IPPROTO_GRE || packet->destination != bpf_ntohl(plan->router_id) ||
	    !(from & HOST_RETURNS_GRE) || !comes_straight(context, packet->source, packet->destination))
		return 0;
	/* The kernel would need a GRE device to put fragments together; a key or sequence number is none of WCCP. */
	if (packet->fragment || bpf_skb_load_bytes(context, begin, &gre, sizeof(gre)) || gre.flags_and_version)
		goto bad;
	if (gre.protocol == bpf_htons(GRE_PROTOCOL_WCCP)) {
		/* Without a redirect header it is WCCPv1's (net/ipv4/gre_demux.c tells them apart so). */
		if ((bpf_ntohl(gre.redirect_header) >> 28) != 4)
			octets = 8;
	} else if (gre.protocol != bpf_htons(ETH_P_IP)) {
		goto bad;
	}
	if (bpf_skb_load_bytes(context, begin + octets, &inner, sizeof(inner)) || inner.version != 4 ||
	    inner.ihl < 5 || bpf_ntohs(inner.tot_len) + packet->header_octets + octets > packet->octets)
		goto bad;
	if (bpf_skb_adjust_room(context, -(__s32)(packet->header_octets + octets), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO)) {
		count(DROPPED_NO_ROOM, packet->octets);
		*verdict = TC_ACT_SHOT;
		return 1;
	}
	count(from >> 16, bpf_ntohs(inner.tot_len));
	*verdict = TC_ACT_OK;
	return 1;
bad:
	count(DROPPED_BAD_RETURN, packet->octets);
	*verdict = TC_ACT_SHOT;
	return 1;
}

#endif
