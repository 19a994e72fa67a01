/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What every probe object has: a ring, per-CPU counters, and a way to hand a record over.
 *
 * Records are submitted without waking the reader, which comes by every few milliseconds: a wake-up costs the
 * traced program six times what the record does.
 */
#ifndef FLEETMEND_PROBE_H
#define FLEETMEND_PROBE_H

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 * 1024 * 1024); /* set by the loader */
} RING SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, u32);
	__type(value, u64);
} COUNTS SEC(".maps");

static __always_inline void count(u32 which)
{
	u64 *value = bpf_map_lookup_elem(&COUNTS, &which);

	if (value)
		*value += 1;
}

static __always_inline void count_handed_over(long error)
{
	count(COUNTER_SEEN);
	count(error ? COUNTER_RING_FULL : COUNTER_DELIVERED);
}

#endif
