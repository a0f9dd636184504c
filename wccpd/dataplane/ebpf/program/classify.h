/* What is to be done with a packet: wccpd/plan/decide.py in C. */
#ifndef CLASSIFY_H
#define CLASSIFY_H

#include "packet.h"

#define AF_INET 2
#define WCCP_PORT 2048

/* How long a silent flow stays pinned; as long as connection tracking keeps one by default. */
#define TCP_SECONDS 432000
#define CLOSING_SECONDS 120
#define OTHER_SECONDS 180
#define FRAGMENT_SECONDS 30 /* net.ipv4.ipfrag_time */

enum verdict { PASS, DROP, ANSWER, SEND };
#define FALLS_THROUGH 0x100

/* -- flows ---------------------------------------------------------------------------------------- */

/* The key of the flow; returns whether the packet goes from its higher end to its lower. */
inline_always int flow_key(const struct packet *packet, struct flow_key *key)
{
	int from_high = packet->source > packet->destination ||
		(packet->source == packet->destination && packet->source_port > packet->destination_port);

	key->low = from_high ? packet->destination : packet->source;
	key->high = from_high ? packet->source : packet->destination;
	key->low_port = from_high ? packet->destination_port : packet->source_port;
	key->high_port = from_high ? packet->source_port : packet->destination_port;
	key->protocol = packet->protocol;
	return from_high;
}

inline_always int is_over(const struct pin *pin, const struct packet *packet)
{
	__u32 silent = packet->now_seconds - pin->seen_seconds;

	if (packet->protocol != IPPROTO_TCP)
		return silent > OTHER_SECONDS;
	if (!pin->closing)
		return silent > TCP_SECONDS;
	return silent > CLOSING_SECONDS || (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* The service that pinned a flow, 0 if it is gone. */
inline_always const struct service *pinning(const struct plan *plan, const struct pin *pin)
{
	__u32 place = plan->places[pin->service];

	return place ? &plan->services[(place - 1) & (SERVICES - 1)] : 0;
}

/* What a pin is worth under this plan. */
inline_always enum pinned worth(const struct plan *plan, const struct pin *pin)
{
	const struct service *service = pinning(plan, pin);

	if (!pin->slot)
		return service && service->mode == OPEN ? PINNED_FORWARDED : PINNED_FOR_NOTHING;
	return service && service->own[pin->slot] && plan->paths[pin->slot].epoch == pin->epoch ?
		PINNED_TO_CACHE : PINNED_TO_LOST;
}

inline_always void look_up_flow(const struct plan *plan, struct packet *packet)
{
	struct flow_key key = {};
	struct pin *pin;

	if (packet->looked_up)
		return;
	packet->looked_up = 1;
	flow_key(packet, &key);
	pin = bpf_map_lookup_elem(&flows, &key);
	if (!pin || is_over(pin, packet))
		return;
	if (pin->seen_seconds != packet->now_seconds)
		pin->seen_seconds = packet->now_seconds;
	if (packet->tcp_flags & (TCP_FIN | TCP_RST))
		pin->closing = 1;
	packet->pin = *pin;
	packet->pinned = worth(plan, pin);
}

/* -- redirect lists and assignments ------------------------------------------------------------------ */

/* The first line of a redirect list that matches, 0 if none does: a vector of lines for each field, of which the
 * packet's value selects one, and what is in all of them matches.
 *
 * heap: | lines, words of a vector | first range, ranges of each field, 0 for a field that no line restricts ... |
 * then one word for each line. The value of a range is the heap index of its vector.
 */
__noinline __u32 first_line(const struct plan *plan, const struct packet *packet, __u32 list)
{
	__u32 vectors[5];
	__u32 words, field;

	if (!plan || !packet)
		return 0;
	words = heap(plan, list);
	for (field = 0; field < 5; field++) {
		__u64 ranges = heap(plan, list + 1 + field);
		__u32 number = field == 0 ? packet->source : field == 1 ? packet->destination :
			field == 2 ? packet->protocol : field == 3 ? packet->source_port : packet->destination_port;

		vectors[field] = ranges ? range_of(plan, ranges >> 32, ranges, number) : 0;
	}
	for (__u32 word = 0; word < MAX_LINE_WORDS && word < words; word++) {
		__u64 lines = ~0ull;

		if (vectors[0])
			lines &= heap(plan, vectors[0] + word);
		if (vectors[1])
			lines &= heap(plan, vectors[1] + word);
		if (vectors[2])
			lines &= heap(plan, vectors[2] + word);
		if (vectors[3])
			lines &= heap(plan, vectors[3] + word);
		if (vectors[4])
			lines &= heap(plan, vectors[4] + word);
		if (lines)
			return heap(plan, list + 6 + word * 64 + lowest(lines));
	}
	return 0;
}

/* The draft's hash: XOR, folded to eight bits (2.00, 5.6.2). */
inline_always __u32 bucket_of(const struct packet *packet, __u32 fields)
{
	__u32 key = 0;

	if (fields & SOURCE_ADDRESS)
		key ^= packet->source;
	if (fields & DESTINATION_ADDRESS)
		key ^= packet->destination;
	if (fields & SOURCE_PORT)
		key ^= packet->source_port;
	if (fields & DESTINATION_PORT)
		key ^= packet->destination_port;
	key ^= key >> 16;
	return (key ^ key >> 8) & 0xff;
}

/* The slot of the first value that the packet equals, set by set; 0 for nobody.
 *
 * heap, a set: | mask of addresses | mask of ports | table, its size less 1 | unused |
 * a table's entry: | addresses | ports, slot, 1 if used |
 */
__noinline __u32 owner_by_mask(const struct plan *plan, const struct packet *packet, __u32 set, __u32 sets)
{
	__u64 addresses, ports;

	if (!plan || !packet)
		return 0;
	addresses = (__u64)packet->source << 32 | packet->destination;
	ports = (__u64)packet->source_port << 48 | (__u64)packet->destination_port << 32;
	for (__u32 number = 0; number < MAX_MASK_SETS && number < sets; number++, set += 4) {
		__u64 value = addresses & heap(plan, set), value_ports = ports & heap(plan, set + 1);
		__u64 table = heap(plan, set + 2);
		__u32 place = ((__u32)(value >> 32) * 0x9e3779b1u + (__u32)value * 0x85ebca77u +
			       (__u32)(value_ports >> 32) * 0xc2b2ae3du) >> 12;

		for (int probe = 0; probe < PROBES; probe++, place++) {
			__u32 entry = (table >> 32) + (place & (__u32)table) * 2;
			__u64 second = heap(plan, entry + 1);

			if (!(second & 1))
				break;
			if (heap(plan, entry) == value && (second ^ value_ports) >> 32 == 0)
				return second >> 8 & 0xff;
		}
	}
	return 0;
}

/* -- services ------------------------------------------------------------------------------------------ */

inline_always int not_redirected(const struct service *service, struct packet *packet, enum reason reason, int verdict)
{
	packet->cell = service->cells[reason % REASONS];
	packet->pin_it = 0;
	if (service->mode == OPEN && (reason == UNASSIGNED || reason == DENIED) && packet->protocol == IPPROTO_TCP &&
	    packet->looked_up && packet->pinned == NOT_PINNED) {
		packet->pin_it = 1;
		packet->new_pin.slot = 0;
		packet->new_pin.service = service->number;
	}
	if (verdict == PASS && reason != LAPSED && service->flags & FALLTHROUGH)
		return verdict | FALLS_THROUGH;
	return verdict;
}

inline_always int by_mode(const struct service *service)
{
	return service->mode == OPEN ? PASS : service->mode == CLOSED ? DROP : ANSWER;
}

inline_always int redirected(const struct service *service, struct packet *packet, __u32 slot, __u32 buckets)
{
	packet->slot = slot;
	packet->cell = service->redirected[slot & (SLOTS - 1)];
	packet->header = (__u32)(service->flags & DYNAMIC) << 24 | (__u32)service->id << 16 | buckets;
	packet->pin_it = 0;
	return SEND;
}

inline_always int new_flow(const struct plan *plan, const struct service *service, struct packet *packet)
{
	__u32 bucket, alternate, buckets = 0, slot;

	if (service->flags & BY_MASK) {
		slot = owner_by_mask(plan, packet, service->masks, service->mask_sets);
	} else {
		bucket = bucket_of(packet, service->primary);
		buckets = bucket;
		if (service->flagged[bucket >> 6] >> (bucket & 63) & 1) {
			alternate = bucket_of(packet, service->alternate);
			slot = service->owners[alternate];
			buckets |= alternate << 8 | ALTERNATE;
		} else {
			slot = service->owners[bucket];
		}
	}
	if (!slot)
		return not_redirected(service, packet, UNASSIGNED, by_mode(service));
	redirected(service, packet, slot, buckets);
	if (packet->looked_up) {
		packet->pin_it = 1;
		packet->new_pin.slot = slot;
		packet->new_pin.epoch = plan->paths[slot & (SLOTS - 1)].epoch;
		packet->new_pin.service = service->number;
		packet->new_pin.buckets = buckets;
	}
	return SEND;
}

/* A service that takes the packet: list, lease, affinity, assignment. */
__noinline int ask(const struct plan *plan, struct packet *packet, __u32 place)
{
	const struct service *service, *pinned;
	__u32 own;

	if (!plan || !packet || place >= SERVICES)
		return DROP;
	service = &plan->services[place];
	packet->looked_up = packet->looked_up && service->flags & AFFINITY;
	if (service->flags & AFFINITY && !packet->is_error && !packet->flowless)
		look_up_flow(plan, packet);
	if (service->list) {
		__u32 line = first_line(plan, packet, service->list);

		count(line & 0xffff, packet->octets);
		if (!(line & PERMIT))
			return not_redirected(service, packet, DENIED, PASS);
	}
	if (!packet->leased)
		return not_redirected(service, packet, LAPSED, by_mode(service));
	if (packet->looked_up && packet->pinned == PINNED_FORWARDED && service->mode == OPEN)
		return not_redirected(service, packet, ESTABLISHED, PASS);
	if (packet->looked_up && packet->pinned == PINNED_TO_CACHE) {
		pinned = pinning(plan, &packet->pin);
		own = service->own[packet->pin.slot];
		/* Of a pair of services, each sees one direction of the same connection. */
		if (own && pinned != service)
			return redirected(service, packet, own, 0);
		if (pinned)
			return redirected(pinned, packet, pinned->own[packet->pin.slot], packet->pin.buckets);
	}
	if (packet->looked_up && packet->pinned == PINNED_TO_LOST && packet->protocol == IPPROTO_TCP &&
	    service->flags & RESET_LOST)
		return not_redirected(service, packet, LOST, ANSWER);
	return new_flow(plan, service, packet);
}

/* The services that take a packet, one bit each. */
inline_always struct services candidates(const struct plan *plan, const struct packet *packet)
{
	const struct services *every = &plan->by_protocol[packet->protocol & 0xff];
	struct services found = *every;
	__u32 vector;

	if (!has_ports(packet->protocol))
		return found;
	if (plan->flags & DESTINATION_PORTS) {
		vector = plan->by_port[packet->protocol == IPPROTO_UDP][0][packet->destination_port];
		if (vector)
			for (int word = 0; word < SERVICES / 64; word++)
				found.words[word] |= heap(plan, vector * 4 + word);
	}
	if (plan->flags & SOURCE_PORTS) {
		vector = plan->by_port[packet->protocol == IPPROTO_UDP][1][packet->source_port];
		if (vector)
			for (int word = 0; word < SERVICES / 64; word++)
				found.words[word] |= heap(plan, vector * 4 + word);
	}
	return found;
}

/* -- exemptions ------------------------------------------------------------------------------------ */

/* Whether the route back to the source leads out of the device that the packet came in by. */
static __noinline int comes_straight(struct __sk_buff *context, __u32 source, __u32 destination)
{
	struct bpf_fib_lookup route = {
		.family = AF_INET,
		.ipv4_src = bpf_htonl(destination),
		.ipv4_dst = bpf_htonl(source),
		.ifindex = context->ifindex,
	};
	int code = bpf_fib_lookup(context, &route, sizeof(route), 0);

	return (code == BPF_FIB_LKUP_RET_SUCCESS || code == BPF_FIB_LKUP_RET_NO_NEIGH) &&
	       route.ifindex == context->ifindex;
}

#define OF_A_CACHE (1 << 16)

/* OF_A_CACHE if this is the frame of a usable cache, with the cell that counts it if it counts as returned; else 0. */
inline_always __u32 sender(struct __sk_buff *context, const struct plan *plan)
{
	__u8 *octets = (void *)(long)context->data;
	__u64 mac;
	__u32 place;

	if (octets + ETH_HLEN > (__u8 *)(long)context->data_end)
		return 0;
	mac = (__u64)octets[6] << 40 | (__u64)octets[7] << 32 | (__u64)octets[8] << 24 | octets[9] << 16 |
	      octets[10] << 8 | octets[11];
	place = (__u32)(mac * 0x9e3779b1u) >> 12;
	for (int probe = 0; probe < PROBES; probe++) {
		__u64 entry = heap(plan, plan->macs + (place++ & plan->macs_mask));

		if (!entry)
			return 0;
		if (entry >> 16 == mac)
			return OF_A_CACHE | (entry & 0xffff);
	}
	return 0;
}

/* WCCP to or from another router. */
static __noinline int is_wccp(struct __sk_buff *context, const struct plan *plan, const struct packet *packet)
{
	if (!plan || !packet || packet->protocol != IPPROTO_UDP)
		return 0;
	if (packet->destination_port == WCCP_PORT && host(plan, packet->destination) & HOST_ROUTER)
		return 1;
	return packet->source_port == WCCP_PORT && host(plan, packet->source) & HOST_ROUTER &&
	       comes_straight(context, packet->source, packet->destination);
}

/* The cell of the first reason why no service may have the packet, in the order of `Exemption`; NOTHING for none. */
inline_always enum cell exemption(struct __sk_buff *context, const struct plan *plan, const struct packet *packet,
				  int is_ethernet)
{
	__u32 there = host(plan, packet->destination);
	__u32 range = range_of(plan, plan->ranges, plan->ranges_count, packet->destination);
	__u32 cell;

	if (there & HOST_LOCAL || range & RANGE_LOCAL || packet->destination >> 28 == 0xe ||
	    packet->destination == 0xffffffff)
		return EXEMPT_NOT_UNICAST;
	if ((packet->source & plan->caches_mask) == plan->caches_network &&
	    host(plan, packet->source) & HOST_CACHE &&
	    comes_straight(context, packet->source, packet->destination))
		return EXEMPT_FROM_CACHE;
	if (is_ethernet && plan->macs_mask) {
		cell = sender(context, plan);
		if (cell) {
			count(cell & 0xffff, packet->octets);
			return EXEMPT_FROM_CACHE;
		}
	}
	if (there & HOST_CACHE)
		return EXEMPT_TO_CACHE;
	if (range & RANGE_NEVER)
		return EXEMPT_NEVER;
	if (packet->ttl <= 1)
		return EXEMPT_NO_HOP_LEFT;
	if (is_wccp(context, plan, packet))
		return EXEMPT_WCCP;
	return NOTHING;
}

/* -- errors and fragments ------------------------------------------------------------------------------ */

/* An ICMP error on its way from client to server about a flow that is pinned to a cache goes there too.
 * Returns -1 if it is an ordinary packet.
 */
static __noinline int ask_about_error(struct __sk_buff *context, const struct plan *plan, struct packet *packet)
{
	struct {
		__u8 ip[20];
		__u8 ports[40];
	} quoted = {};
	__u32 begin = packet->offset + packet->header_octets + 8, header;
	struct packet about = { .now_seconds = packet->now_seconds };
	const struct service *service;
	struct flow_key key = {};
	struct pin *pin;
	int from_high;

	if (packet->octets < packet->header_octets + 8 + 28)
		return -1;
	if (bpf_skb_load_bytes(context, begin, quoted.ip, 20))
		return -1;
	header = (quoted.ip[0] & 0xf) * 4;
	if (header < 20 || bpf_skb_load_bytes(context, begin + header, quoted.ports, 8))
		return -1;
	about.source = bpf_ntohl(*(__u32 *)(quoted.ip + 12));
	about.destination = bpf_ntohl(*(__u32 *)(quoted.ip + 16));
	about.protocol = quoted.ip[9];
	if (has_ports(about.protocol)) {
		about.source_port = quoted.ports[0] << 8 | quoted.ports[1];
		about.destination_port = quoted.ports[2] << 8 | quoted.ports[3];
	}
	from_high = flow_key(&about, &key);
	pin = bpf_map_lookup_elem(&flows, &key);
	/* What the client complains about came to it: from the other end. */
	if (!pin || is_over(pin, &about) || worth(plan, pin) != PINNED_TO_CACHE || from_high == pin->client_is_high)
		return -1;
	service = pinning(plan, pin);
	return service ? redirected(service, packet, service->own[pin->slot], pin->buckets) : -1;
}

inline_always void fragment_key(const struct packet *packet, struct fragment_key *key)
{
	key->source = packet->source;
	key->destination = packet->destination;
	key->identification = packet->identification;
	key->protocol = packet->protocol;
}

/* A later fragment has no ports: it goes the way of the first. */
inline_always int follow_first(const struct plan *plan, struct packet *packet)
{
	struct fragment_key key = {};
	struct fragment *first;

	fragment_key(packet, &key);
	first = bpf_map_lookup_elem(&fragments, &key);
	if (!first || packet->now_seconds - first->seen_seconds > FRAGMENT_SECONDS) {
		packet->cell = DROPPED_STRAY_FRAGMENT;
		return DROP;
	}
	packet->cell = first->cell;
	packet->slot = first->slot;
	packet->header = first->header;
	/* What is answered is answered once. */
	return first->verdict == ANSWER ? DROP : first->verdict;
}

inline_always void remember_first(const struct packet *packet, int verdict)
{
	struct fragment_key key = {};
	struct fragment first = {
		.verdict = verdict,
		.slot = packet->slot,
		.cell = packet->cell,
		.header = packet->header,
		.seen_seconds = packet->now_seconds,
	};

	fragment_key(packet, &key);
	bpf_map_update_elem(&fragments, &key, &first, BPF_ANY);
}

/* -- all of it ---------------------------------------------------------------------------------------- */

inline_always void pin_flow(const struct packet *packet)
{
	struct flow_key key = {};
	struct pin pin = packet->new_pin;

	pin.client_is_high = flow_key(packet, &key);
	pin.seen_seconds = packet->now_seconds;
	pin.closing = !!(packet->tcp_flags & (TCP_FIN | TCP_RST));
	/* A full table makes room; if it cannot, the flow goes by the buckets. */
	bpf_map_update_elem(&flows, &key, &pin, BPF_ANY);
}

inline_always int ask_in_turn(const struct plan *plan, struct packet *packet, const struct services *asked)
{
	int verdict = PASS;
	__u32 place;

	for (int word = 0; word < SERVICES / 64; word++) {
		__u64 left = asked->words[word];

		for (int bit = 0; bit < 64 && left; bit++) {
			place = word * 64 + lowest(left);
			left &= left - 1;
			verdict = ask(plan, packet, place);
			count(packet->cell, packet->octets);
			if (!(verdict & FALLS_THROUGH))
				return verdict;
		}
	}
	return verdict & ~FALLS_THROUGH;
}

/* The verdict on a packet from a spoke; everything is counted. */
inline_always int classify(struct __sk_buff *context, const struct plan *plan, struct packet *packet, int is_ethernet)
{
	struct services asked;
	enum cell exempt;
	int verdict;
	__u32 zero = 0;
	__u64 *deadline, now;

	if (!(plan->protocols_taken[packet->protocol >> 6 & 3] >> (packet->protocol & 63) & 1) && !packet->is_error)
		return PASS;
	now = bpf_ktime_get_coarse_ns();
	packet->now_seconds = now / NANOSECONDS;
	deadline = bpf_map_lookup_elem(&lease, &zero);
	packet->leased = deadline && now < *deadline;
	if (packet->fragment & FRAGMENT_OFFSET) {
		exempt = exemption(context, plan, packet, is_ethernet);
		if (exempt) {
			count(exempt, packet->octets);
			return PASS;
		}
		verdict = follow_first(plan, packet);
		count(packet->cell, packet->octets);
		return verdict;
	}
	asked = candidates(plan, packet);
	if (packet->is_error && packet->leased) {
		verdict = ask_about_error(context, plan, packet);
		if (verdict >= 0) {
			count(packet->cell, packet->octets);
			return verdict;
		}
	}
	if (!(asked.words[0] | asked.words[1] | asked.words[2] | asked.words[3])) {
		if (packet->fragment)
			remember_first(packet, PASS);
		return PASS;
	}
	exempt = exemption(context, plan, packet, is_ethernet);
	if (exempt) {
		count(exempt, packet->octets);
		if (packet->fragment)
			remember_first(packet, PASS);
		return PASS;
	}
	verdict = ask_in_turn(plan, packet, &asked);
	if (packet->pin_it)
		pin_flow(packet);
	if (packet->fragment)
		remember_first(packet, verdict);
	return verdict;
}

#endif
