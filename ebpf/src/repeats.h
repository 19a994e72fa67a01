/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Acts that are equal to one that was told within a while are counted instead of told.
 */
#ifndef FLEETMEND_REPEATS_H
#define FLEETMEND_REPEATS_H

#include "probe.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, REPEAT_SETS);
	__type(key, u32);
	__type(value, struct repeat_set);
} REPEATS SEC(".maps");

/* How long equal acts are counted instead of told, set by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} WINDOW_NS SEC(".maps");

static __always_inline u64 mixed(u64 hash, u64 word)
{
	return (hash ^ word) * 0x9e3779b97f4a7c15ULL;
}

/* Whether an equal act was told within the window; else takes its place and gives what it had counted. */
static __always_inline bool is_repeat(u64 key, u64 now, u64 *repeats)
{
	u32 at = (key >> 32) % REPEAT_SETS, zero = 0;
	struct repeat_set *set = bpf_map_lookup_elem(&REPEATS, &at);
	u64 *window = bpf_map_lookup_elem(&WINDOW_NS, &zero);
	struct repeat *oldest = NULL;
	u64 oldest_ns = ~0ULL;

	*repeats = 0;
	if (!set || !window)
		return false;
	for (int way = 0; way < REPEAT_WAYS; way++) {
		struct repeat *one = &set->of[way];

		if (one->key == key) {
			if (now - one->since_ns < *window) {
				one->last_ns = now;
				__sync_fetch_and_add(&one->count, 1);
				return true;
			}
			/* The agent may take the count at this very moment: below 0 it was told already. */
			if ((s64)one->count > 0)
				*repeats = one->count;
			__sync_fetch_and_add(&one->count, -*repeats);
			one->since_ns = now;
			return false;
		}
		if (one->since_ns < oldest_ns) {
			oldest_ns = one->since_ns;
			oldest = one;
		}
	}
	if (!oldest)
		return false;
	if (oldest->key && now - oldest->since_ns < *window)
		count_evicted();
	if ((s64)oldest->count > 0) {
		struct repeats_record *record;
		u64 counted = oldest->count;

		count_seen();
		record = record_reserve(sizeof(*record));
		if (record) {
			fill_head(&record->head, FILE_REPEATS, 0);
			record->key = oldest->key;
			record->count = counted;
			record_submit(record);
		}
		__sync_fetch_and_add(&oldest->count, -counted);
	}
	oldest->since_ns = now;
	oldest->key = key;
	return false;
}

#endif
