/* Makes every frame of a live test run into a fresh packet of the next flow.
 *
 * The kernel uses the frames of such a run again and again, and what passed through the stack comes back with
 * other MAC addresses and a lower TTL. So all headers are written anew from a template whose low 16 bits of both
 * addresses and whose source port are zero; the flow's number is put there, and both checksums follow.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FIRST_PORT 32768

struct headers {
	struct ethhdr ethernet;
	struct iphdr ip;
	struct tcphdr tcp;
} __attribute__((packed, aligned(2)));

/* Copied as seven words: two octets of payload come with the 54 of the headers. */
struct beginning {
	__u64 words[7];
};

struct injection {
	__u64 flow_mask; /* number of flows, a power of two up to 16384, less one */
	struct beginning beginning;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct injection);
} injection SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} sequence SEC(".maps");

/* One's complement addition to a checksum (RFC 1624). */
static __always_inline __u16 with_words(__u16 checksum, __u32 words)
{
	__u32 sum = (__u16)~checksum + words;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

SEC("xdp")
int inject(struct xdp_md *context)
{
	struct beginning *frame = (void *)(long)context->data;
	struct headers *headers = (void *)frame;
	__u32 zero = 0;
	struct injection *wanted = bpf_map_lookup_elem(&injection, &zero);
	__u64 *next = bpf_map_lookup_elem(&sequence, &zero);
	__u16 flow, source, destination, port;

	if (!wanted || !next || (void *)(frame + 1) > (void *)(long)context->data_end)
		return XDP_ABORTED;
	flow = (*next)++ & wanted->flow_mask;
	/* An odd factor gives every flow a destination of its own. */
	source = bpf_htons(flow);
	destination = bpf_htons((__u16)(flow * 40503));
	port = bpf_htons(FIRST_PORT + flow);
	*frame = wanted->beginning;
	headers->ip.saddr |= bpf_htonl(bpf_ntohs(source));
	headers->ip.daddr |= bpf_htonl(bpf_ntohs(destination));
	headers->ip.check = with_words(headers->ip.check, (__u32)source + destination);
	headers->tcp.source = port;
	headers->tcp.check = with_words(headers->tcp.check, (__u32)source + destination + port);
	return XDP_PASS;
}

/* A veth device receives a live frame only if it has an XDP program. */
SEC("xdp")
int nothing(struct xdp_md *context)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
