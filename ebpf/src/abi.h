/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the records of all families share, little-endian, without implicit padding. The records themselves are in
 * `abi/FAMILY.h`.
 *
 * `abi.rs` reads the same bytes field by field; its test compares every size and offset here (through BTF) with the
 * ones it reads at. A change of layout raises ABI_VERSION.
 */
#ifndef FLEETMEND_ABI_H
#define FLEETMEND_ABI_H

#define ABI_VERSION 3

#define COMM_BYTES 16

/* Places of the counters of a family; COUNTER_SEEN is the last, so that a reader that goes upwards never finds more
 * handed over than seen. */
enum counter {
	COUNTER_DELIVERED = 0,  /* records that entered a ring */
	COUNTER_RING_FULL = 1,  /* events lost because the ring was full */
	COUNTER_MAP_FULL = 2,   /* events lost because a map had no room */
	COUNTER_SHED = 3,       /* events left out because the family was over its budget */
	COUNTER_FILTERED = 4,   /* events that are not told by design */
	COUNTER_AGGREGATED = 5, /* events that are counted in another row's repeats */
	COUNTER_EVICTED = 6,    /* entries that made room for others; no event was lost for it */
	COUNTER_SEEN = 7,       /* every event */
	COUNTERS = 8,
};

struct counters {
	u64 of[COUNTERS];
};

/* Most duties of a family. */
#define DUTIES_MAX 32

struct duty_time {
	u64 runs;
	u64 timed_runs;
	u64 timed_ns;
};

struct duty_times {
	struct duty_time of[DUTIES_MAX];
};

/* Written by the agent at any time. */
struct settings {
	u32 own_pid;    /* whose acts are not told; 0 for none */
	u32 shed_level; /* 0: nothing is shed */
};

struct record_head {
	u64 time_ns; /* boot clock */
	u16 kind;    /* the family's own */
	u16 flags;   /* the family's own */
	u32 pid;
};

/* Who did it. */
struct actor {
	u64 start_ns; /* boot clock */
	u64 parent_start_ns;
	u64 cgroup_id;  /* of the unified hierarchy */
	u64 cgroup_set; /* equal for tasks that share every cgroup; only good while such a task lives */
	u32 pid;
	u32 ppid;
	u32 uid;
	u32 euid;
	u32 gid;
	u32 loginuid; /* 0xffffffff when unset */
	char comm[COMM_BYTES];
};

/* The beginning of every record of an act. */
struct act_head {
	struct record_head head;
	struct actor actor;
	s32 error;   /* of a call that failed, else 0 */
	u32 repeats; /* equal acts that this record stands for */
	u64 key;     /* equal for equal acts; 0 where none are counted */
};

/* Kind of a record that is no act: how often one was repeated that is not remembered any longer. No family has an act
 * of this number. */
#define KIND_REPEATS 32

struct repeats_record {
	struct record_head head;
	u64 key;
	u64 count;
};

/* Acts of the last while; four have a place for each remainder of the key. The agent takes counts back to 0. */
#define REPEAT_WAYS 4

struct repeat {
	u64 key;
	u64 until_ns; /* when an equal act is told again */
	u64 count;    /* repeats since the last one told, not told yet */
	u64 last_ns;
};

struct repeat_set {
	struct repeat of[REPEAT_WAYS];
};

_Static_assert(sizeof(struct record_head) == 16, "record_head");
_Static_assert(sizeof(struct actor) == 72, "actor");
_Static_assert(sizeof(struct act_head) == 104, "act_head");
_Static_assert(sizeof(struct repeats_record) == 32, "repeats_record");
_Static_assert(sizeof(struct repeat_set) == 128, "repeat_set");

#endif
