/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How many entries a map that evicts the least recently used one holds. The kernel does not say when it evicts: more was
 * put in than taken out again and than has room, so the rest was evicted. It begins to evict some entries before the map
 * is full, and what the agent puts in is not counted, so `evicted` says how many there were at least.
 */
#ifndef FLEETMEND_HELD_H
#define FLEETMEND_HELD_H

#include "probe.h"

#define HELD_MAPS_MAX 2

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HELD_MAPS_MAX);
	__type(key, u32);
	__type(value, s64);
} HELD SEC(".maps");

static __always_inline void held_more(u32 which, s64 places)
{
	s64 *held = bpf_map_lookup_elem(&HELD, &which);

	if (!held)
		return;
	__sync_fetch_and_add(held, 1);
	if (*(volatile s64 *)held > places) {
		__sync_fetch_and_add(held, -1);
		count_evicted();
	}
}

static __always_inline void held_less(u32 which)
{
	s64 *held = bpf_map_lookup_elem(&HELD, &which);

	if (held)
		__sync_fetch_and_add(held, -1);
}

/* Puts an entry into the map number `which` of the object; one that finds no room counts as evicted at once. */
static __always_inline void hold(void *map, u32 which, s64 places, const void *key, const void *value)
{
	if (!bpf_map_update_elem(map, key, value, BPF_NOEXIST))
		held_more(which, places);
	else if (bpf_map_update_elem(map, key, value, BPF_ANY))
		count_evicted();
}

static __always_inline void let_go(void *map, u32 which, const void *key)
{
	if (!bpf_map_delete_elem(map, key))
		held_less(which);
}

#endif
