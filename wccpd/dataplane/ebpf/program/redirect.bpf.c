/* The eBPF data plane of wccpd: tc programs (clsact, direct action) at the ingress of devices.
 *
 *   packet -> GRE of a cache to the Router ID? -----------------> unpack -> the kernel's routing
 *          -> which services take it (by protocol and port)? none -------> the kernel's routing
 *          -> may none have it (to us, from a cache, never, ...)? --------> the kernel's routing
 *          -> service by service: redirect list, lease, pinned flow, bucket or mask value
 *               -> forwarded -> the kernel's routing, or the next service (`fallthrough`)
 *               -> dropped
 *               -> rejected: a TCP reset or ICMP back to where it came from
 *               -> redirected: one hop less, GRE and redirect header pushed if so, to the cache's next hop
 *
 * wccpd/plan/decide.py is the specification; tests/netns/test_ebpf_by_chance.py holds this against it.
 *
 * maps.h has the maps. `plans` holds one `struct plan` (layout.h): everything that is configured, as one block that
 * is replaced as a whole, so every packet meets one plan and none a mixture. `flows` pins flows to paths; a pin whose
 * path is gone, or whose slot has another path now (`epoch`), counts as lost at once. `fragments` holds what became
 * of first fragments, since tc comes before the kernel puts them together. `lease` is a deadline, `counters` counts
 * per CPU, `answers` limits how often we answer, `labels` is userspace's notebook.
 *
 * Nothing is dropped without being counted: DROPPED_* in layout.h, or the outcome of a service. What is no whole IPv4
 * packet, is not for this host's MAC address, or carries a VLAN tag (then it belongs to the VLAN's device) is left
 * to the kernel untouched.
 *
 * packet.h reads packets, classify.h decides, send.h changes and sends. Checked by the verifier of Linux 6.18;
 * needs 5.13 (pointers to structures as arguments of global functions).
 */
#include "send.h"

#define PACKET_HOST 0

inline_always int run(struct __sk_buff *context, int is_ethernet, int is_ingress)
{
	struct packet packet = {};
	struct plan *plan;
	int verdict;

	if (context->protocol != bpf_htons(ETH_P_IP) || context->pkt_type != PACKET_HOST || context->vlan_present)
		return TC_ACT_UNSPEC;
	plan = current_plan();
	if (!plan || !read_packet(context, is_ethernet ? ETH_HLEN : 0, &packet))
		return TC_ACT_UNSPEC;
	if (packet.protocol == IPPROTO_GRE && take_back(context, plan, &packet, &verdict))
		return verdict;
	clamp_answer(context, plan, &packet);
	if (!is_ingress)
		return TC_ACT_UNSPEC;
	switch (classify(context, plan, &packet, is_ethernet)) {
	case PASS:
		return TC_ACT_UNSPEC;
	case ANSWER:
		return answer(context, plan, &packet, is_ethernet);
	case SEND:
		return send(context, plan, &packet, is_ethernet);
	default:
		return TC_ACT_SHOT;
	}
}

/* Ethernet devices whose packets are redirected. */
SEC("tc")
int wccp_ethernet(struct __sk_buff *context)
{
	return run(context, 1, 1);
}

/* The same for devices without link-layer headers: GRE tunnels, TUN. */
SEC("tc")
int wccp_ip(struct __sk_buff *context)
{
	return run(context, 0, 1);
}

/* Devices that only lead to caches: what caches return is taken back. */
SEC("tc")
int wccp_back(struct __sk_buff *context)
{
	return run(context, 1, 0);
}

SEC("tc")
int wccp_back_ip(struct __sk_buff *context)
{
	return run(context, 0, 0);
}

char LICENSE[] SEC("license") = "GPL";
