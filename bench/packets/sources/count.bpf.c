/* Counts the IPv4 packets that leave a device by the last octet of their next hop's MAC address, and drops them. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct tally {
	__u64 packets;
	__u64 octets;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct tally);
} delivered SEC(".maps");

SEC("tc")
int count(struct __sk_buff *packet)
{
	struct ethhdr *ethernet = (void *)(long)packet->data;
	struct tally *tally;
	__u32 hop;

	if ((void *)(ethernet + 1) > (void *)(long)packet->data_end)
		return TC_ACT_OK;
	if (ethernet->h_proto != bpf_htons(ETH_P_IP))
		return TC_ACT_OK;
	hop = ethernet->h_dest[ETH_ALEN - 1];
	tally = bpf_map_lookup_elem(&delivered, &hop);
	if (!tally)
		return TC_ACT_OK;
	tally->packets++;
	tally->octets += packet->len;
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "GPL";
