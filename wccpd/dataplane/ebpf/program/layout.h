/* What userspace writes and the program reads. wccpd/dataplane/ebpf/image.py writes the same layout. */
#ifndef LAYOUT_H
#define LAYOUT_H

#include <linux/types.h>

#define SERVICES 256
#define SLOTS 256
#define BUCKETS 256
#define HEAP_WORDS (1 << 18)
#define CELLS 16384
#define MAX_LINE_WORDS 64 /* 64 lines of a redirect list each */
#define MAX_MASK_SETS 64
#define PROBES 16 /* entries of a hash table that are looked at */

/* Flags of a service. */
#define DYNAMIC 1
#define AFFINITY 2
#define FALLTHROUGH 4
#define RESET_LOST 8
#define BY_MASK 16

/* Flags of an address in `hosts`; the cell of what a cache returned is in the upper 16 of 32 bits. */
#define HOST_LOCAL 1
#define HOST_CACHE 2
#define HOST_RETURNS_GRE 4
#define HOST_THERE 8
#define HOST_ROUTER 16

/* Flags of a range of addresses in `ranges`. */
#define RANGE_LOCAL 1
#define RANGE_NEVER 2

/* Flags of a plan. */
#define SOURCE_PORTS 1
#define DESTINATION_PORTS 2

/* A line of a redirect list: the cell that counts it, and this bit if it permits. */
#define PERMIT (1 << 16)
#define LINE_THERE (1 << 17)

#define ALTERNATE (2 << 24) /* in the redirect header */

enum mode { OPEN, CLOSED, REJECT };
enum reason { UNASSIGNED, DENIED, ESTABLISHED, LAPSED, LOST, REASONS };
enum field { SOURCE_ADDRESS = 1, DESTINATION_ADDRESS = 2, SOURCE_PORT = 4, DESTINATION_PORT = 8 };

/* The first cells have a fixed meaning; cell 0 counts nothing that anybody reads. */
enum cell {
	NOTHING,
	EXEMPT_NOT_UNICAST,
	EXEMPT_FROM_CACHE,
	EXEMPT_TO_CACHE,
	EXEMPT_NEVER,
	EXEMPT_NO_HOP_LEFT,
	EXEMPT_WCCP,
	DROPPED_STRAY_FRAGMENT = 8, /* a later fragment without its first one */
	DROPPED_TOO_BIG, /* answered with ICMP "fragmentation needed" */
	DROPPED_UNANSWERED, /* should have been answered; one may not (RFC 1812, 4.3.2.7), or not so often */
	DROPPED_NO_ROOM, /* the kernel did not let us change its length */
	DROPPED_BAD_RETURN, /* GRE of a cache with no IPv4 packet in it */
	FIXED_CELLS = 64,
};

/* One bit for each service, in the order in which they are asked. */
struct services {
	__u64 words[SERVICES / 64];
};

struct service {
	__u8 number; /* its own as long as it is configured; its place in the plan may change */
	__u8 id;
	__u8 mode;
	__u8 flags;
	__u8 primary; /* enum field */
	__u8 alternate;
	__u16 mask_sets;
	__u32 masks; /* heap: four words a set */
	__u32 list; /* heap: the redirect list, 0 for none */
	__u32 cells[REASONS];
	__u32 unused;
	__u64 flagged[BUCKETS / 64]; /* buckets with the A flag */
	__u8 owners[BUCKETS]; /* slot, 0 for nobody */
	__u8 own[SLOTS]; /* slot of this service's path to the cache that a slot means, 0 for none */
	__u16 redirected[SLOTS]; /* cell */
};

struct path {
	__be32 cache;
	__be32 next_hop;
	__u32 device;
	__u16 mtu;
	__u16 mss; /* greatest that fits through, 0 for no clamping */
	__u8 is_gre;
	__u8 epoch; /* tells the cache that the slot means from those that it meant before; also without a path */
	__u16 unused;
};

struct plan {
	__be32 router_id;
	__u32 flags;
	__u32 caches_network; /* all caches are in here: most sources need no look at `hosts` */
	__u32 caches_mask;
	__u32 hosts, hosts_mask; /* heap: table of addresses */
	__u32 macs, macs_mask; /* heap: table of usable caches on our segments; mask 0: none */
	__u32 ranges, ranges_count; /* heap: ranges of addresses */
	__u16 least_mss; /* for SYN-ACKs of flows that are not pinned, 0 for no clamping */
	__u16 unused[3];
	__u64 protocols_taken[4]; /* of which some service takes something */
	__u16 places[SERVICES]; /* number of a service to its place, plus 1 */
	struct services by_protocol[256]; /* services without ports */
	struct path paths[SLOTS];
	struct service services[SERVICES];
	__u16 by_port[2][2][65536]; /* UDP, by source: heap index of a `struct services` over 4, 0 for none */
	__u64 heap[HEAP_WORDS];
};

struct count {
	__u64 packets;
	__u64 octets;
};

/* Both directions of a flow have the same key: the lower end first. */
struct flow_key {
	__u32 low, high;
	__u16 low_port, high_port;
	__u32 protocol;
};

struct pin {
	__u8 slot; /* 0: forwarded */
	__u8 epoch;
	__u8 service; /* number of the one that pinned it */
	__u8 client_is_high;
	__u32 buckets; /* of the redirect header, with the alternate flag */
	__u32 seen_seconds;
	__u8 closing; /* FIN or RST seen */
	__u8 unused[3];
};

struct fragment_key {
	__u32 source, destination;
	__u32 identification;
	__u32 protocol;
};

struct fragment {
	__u8 verdict;
	__u8 slot;
	__u16 cell;
	__u32 header;
	__u32 seen_seconds;
};

#endif
