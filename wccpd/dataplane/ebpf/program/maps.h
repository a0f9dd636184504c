#ifndef MAPS_H
#define MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "layout.h"

/* The plan in force: a whole one at any moment, replaced by one write to `plans`. */
struct plan_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plan);
} first_plan SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct plan_map);
} plans SEC(".maps") = { .values = { (void *)&first_plan } };

/* Until when the plan may be followed: CLOCK_MONOTONIC, ns. Renewed by the daemon. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lease SEC(".maps");

/* Which flow goes where. When it is full, the flow that was silent longest gives way. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct flow_key);
	__type(value, struct pin);
} flows SEC(".maps");

/* What was done with the first fragment of a packet. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} fragments SEC(".maps");

/* Everything that is counted; userspace knows from `labels` what a cell counts. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CELLS);
	__type(key, __u32);
	__type(value, struct count);
} counters SEC(".maps");

/* Answers that we may still send in this second, so that nobody uses us to send many. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} answers SEC(".maps");

/* Userspace's own notes, kept here for its next run. The program does not look at them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CELLS + 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, char[128]);
} labels SEC(".maps");

#endif
