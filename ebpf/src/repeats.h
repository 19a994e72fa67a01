/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Acts that are equal to one that was told within a while are counted instead of told.
 *
 * The object says how many sets its table has (REPEAT_SETS). An entry that makes room for another hands its count over;
 * the agent takes the counts of those whose while is over.
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

static __always_inline u64 mixed(u64 hash, u64 word)
{
	return (hash ^ word) * 0x9e3779b97f4a7c15ULL;
}

/* Tells the agent what an entry counted that makes room. */
static __always_inline void hand_count_over(struct repeat *one)
{
	struct repeats_record *record;
	u64 counted = one->count;

	if ((s64)counted <= 0)
		return;
	count_seen();
	record = record_reserve(sizeof(*record));
	if (record) {
		fill_head(&record->head, KIND_REPEATS, 0);
		record->key = one->key;
		record->count = counted;
		record_submit(record);
	}
	__sync_fetch_and_add(&one->count, -counted);
}

/* Whether an equal act was told less than `window_ns` ago; else it is remembered as told now, and `repeats` is what was
 * counted since it was told before. */
static __always_inline bool is_repeat(u64 key, u64 now, u64 window_ns, u64 *repeats)
{
	u32 at = (key >> 32) % REPEAT_SETS;
	struct repeat_set *set = bpf_map_lookup_elem(&REPEATS, &at);
	struct repeat *first = NULL;
	u64 first_ns = ~0ULL;

	*repeats = 0;
	if (!set)
		return false;
#pragma clang loop unroll(full)
	for (int way = 0; way < REPEAT_WAYS; way++) {
		struct repeat *one = &set->of[way];

		if (one->key == key) {
			if (now < one->until_ns) {
				one->last_ns = now;
				__sync_fetch_and_add(&one->count, 1);
				return true;
			}
			/*
			 * The agent may take the count at this very moment: below 0 it was told already. Nothing is taken
			 * of none: adding 0 becomes an atomic or, which kernels before 5.12 refuse.
			 */
			if ((s64)one->count > 0) {
				*repeats = one->count;
				__sync_fetch_and_add(&one->count, -*repeats);
			}
			one->until_ns = now + window_ns;
			return false;
		}
		if (one->until_ns < first_ns) {
			first_ns = one->until_ns;
			first = one;
		}
	}
	if (!first)
		return false;
	if (first->key && now < first->until_ns)
		count_evicted();
	hand_count_over(first);
	/* Nothing fits the entry while it is neither the one nor the other. */
	first->key = 0;
	asm volatile("" ::: "memory");
	first->until_ns = now + window_ns;
	asm volatile("" ::: "memory");
	first->key = key;
	return false;
}

/* Nobody was told of the act after all: the next equal one is told. */
static __always_inline void forget_act(u64 key)
{
	u32 at = (key >> 32) % REPEAT_SETS;
	struct repeat_set *set = bpf_map_lookup_elem(&REPEATS, &at);

	if (!set)
		return;
#pragma clang loop unroll(full)
	for (int way = 0; way < REPEAT_WAYS; way++) {
		if (set->of[way].key == key) {
			set->of[way].key = 0;
			set->of[way].until_ns = 0;
		}
	}
}

#endif
