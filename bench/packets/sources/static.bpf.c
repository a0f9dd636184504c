/* The least that a redirect by tc costs: one cache, everything about it hard-coded, nothing looked up but a device.
 *
 * Both programs take one hop off the packet's TTL and send it to the next hop 02:00:00:00:00:02 by the device in
 * `egress`: as it is, or in GRE with a redirect header (draft 4.12.1) from 10.100.1.10 to 172.16.1.2.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ROUTER 0x0a64010a
#define CACHE 0xac100102
#define DONT_FRAGMENT 0x4000
#define GRE_WCCP 0x883e

struct frame {
	struct ethhdr ethernet;
	struct iphdr ip;
} __attribute__((packed, aligned(2)));

struct tunnel {
	struct iphdr ip;
	__be32 gre;
	__be32 redirect;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} egress SEC(".maps");

static __always_inline int towards_cache(void)
{
	__u32 zero = 0, *device = bpf_map_lookup_elem(&egress, &zero);

	return device ? bpf_redirect(*device, 0) : TC_ACT_OK;
}

/* Takes a hop off and addresses the frame to the cache; 0 for a packet that is none of ours. */
static __always_inline int take(struct __sk_buff *packet)
{
	static const __u8 cache[ETH_ALEN] = { 2, 0, 0, 0, 0, 2 };
	struct frame *frame = (void *)(long)packet->data;
	__u32 checksum;

	if ((void *)(frame + 1) > (void *)(long)packet->data_end || frame->ethernet.h_proto != bpf_htons(ETH_P_IP))
		return 0;
	if (frame->ip.ihl != 5 || frame->ip.ttl < 2 || frame->ip.protocol != IPPROTO_TCP)
		return 0;
	frame->ip.ttl--;
	checksum = frame->ip.check + bpf_htons(0x0100);
	frame->ip.check = checksum + (checksum >> 16);
	__builtin_memcpy(frame->ethernet.h_dest, cache, ETH_ALEN);
	return 1;
}

SEC("tc")
int static_l2(struct __sk_buff *packet)
{
	return take(packet) ? towards_cache() : TC_ACT_OK;
}

SEC("tc")
int static_gre(struct __sk_buff *packet)
{
	struct tunnel tunnel = {
		.ip = {
			.version = 4,
			.ihl = 5,
			.frag_off = bpf_htons(DONT_FRAGMENT),
			.ttl = 255,
			.protocol = IPPROTO_GRE,
			.saddr = bpf_htonl(ROUTER),
			.daddr = bpf_htonl(CACHE),
		},
		.gre = bpf_htonl(GRE_WCCP),
	};
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
	__u16 *words = (__u16 *)&tunnel.ip;
	__u32 sum = 0;

	if (!take(packet))
		return TC_ACT_OK;
	tunnel.ip.tot_len = bpf_htons(packet->len - ETH_HLEN + sizeof(tunnel));
	for (int word = 0; word < 10; word++)
		sum += words[word];
	sum = (sum & 0xffff) + (sum >> 16);
	tunnel.ip.check = ~((sum & 0xffff) + (sum >> 16));
	if (bpf_skb_adjust_room(packet, sizeof(tunnel), BPF_ADJ_ROOM_MAC, flags))
		return TC_ACT_SHOT;
	if (bpf_skb_store_bytes(packet, ETH_HLEN, &tunnel, sizeof(tunnel), 0))
		return TC_ACT_SHOT;
	return towards_cache();
}

char LICENSE[] SEC("license") = "GPL";
