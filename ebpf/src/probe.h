/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What every probe object has: a ring, counters, times, settings, and ways to hand a record over.
 *
 * Records are submitted without waking the reader, which comes by every few milliseconds: a wake-up costs the
 * traced program six times what the record does.
 *
 * Accounting: an event that is not the agent's own is counted as seen once, and then as exactly one of filtered,
 * aggregated, delivered, ring_full, map_full or shed. Counters are added to atomically: another program of the same
 * object may interrupt one on its processor.
 */
#ifndef FLEETMEND_PROBE_H
#define FLEETMEND_PROBE_H

#define TIME_SAMPLE 64 /* one run in so many is timed */
#define UID_UNSET 0xffffffff

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 * 1024 * 1024); /* set by the loader */
} RING SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct counters);
} COUNTS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct duty_times);
} TIMES SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct settings);
} SETTINGS SEC(".maps");

static __always_inline void count(u32 which)
{
	u32 zero = 0;
	struct counters *counters = bpf_map_lookup_elem(&COUNTS, &zero);

	if (counters && which < COUNTERS)
		__sync_fetch_and_add(&counters->of[which], 1);
}

#define count_seen() count(COUNTER_SEEN)
#define count_filtered() count(COUNTER_FILTERED)
#define count_aggregated() count(COUNTER_AGGREGATED)
#define count_shed() count(COUNTER_SHED)
#define count_map_full() count(COUNTER_MAP_FULL)
#define count_evicted() count(COUNTER_EVICTED)

static __always_inline struct settings *settings(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&SETTINGS, &zero);
}

/* Whether the agent itself is the one who acts. */
static __always_inline bool own_act(void)
{
	struct settings *set = settings();

	return set && set->own_pid && set->own_pid == (u32)(bpf_get_current_pid_tgid() >> 32);
}

/* Whether events of this level are shed now; 1 goes first. */
static __always_inline bool shed_at(u32 level)
{
	struct settings *set = settings();

	return set && set->shed_level >= level;
}

static __always_inline struct duty_time *time_of(u32 duty)
{
	u32 zero = 0;
	struct duty_times *times = bpf_map_lookup_elem(&TIMES, &zero);

	return times && duty < DUTIES_MAX ? &times->of[duty] : NULL;
}

static __always_inline u64 time_begin(u32 duty)
{
	struct duty_time *time = time_of(duty);

	if (!time)
		return 0;
	__sync_fetch_and_add(&time->runs, 1);
	return time->runs % TIME_SAMPLE ? 0 : bpf_ktime_get_ns();
}

static __always_inline void time_end(u32 duty, u64 began)
{
	struct duty_time *time;

	if (!began)
		return;
	time = time_of(duty);
	if (time) {
		__sync_fetch_and_add(&time->timed_runs, 1);
		__sync_fetch_and_add(&time->timed_ns, bpf_ktime_get_ns() - began);
	}
}

/* The body of a program, timed for its duty: its index in the family's table of duties. */
#define TIMED(duty, ...)                        \
	({                                      \
		u64 timed_since = time_begin(duty); \
		__VA_ARGS__;                    \
		time_end(duty, timed_since);    \
		0;                              \
	})

/* A field, through the types that the verifier knows or through a read that every kernel allows. `typed` is a
 * constant, so that one of the two is left. */
#define GET(typed, from, field) ((typed) ? (from)->field : BPF_CORE_READ(from, field))

/* Room in the ring; without it the event is counted as lost. */
#define record_reserve(size)                                                 \
	({                                                                   \
		void *reserved_record = bpf_ringbuf_reserve(&RING, size, 0); \
		if (!reserved_record)                                        \
			count(COUNTER_RING_FULL);                            \
		reserved_record;                                             \
	})

static __always_inline void record_submit(void *record)
{
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	count(COUNTER_DELIVERED);
}

static __always_inline void record_discard(void *record)
{
	bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
}

static __always_inline long record_output_to(void *ring, void *data, u64 bytes)
{
	long error = bpf_ringbuf_output(ring, data, bytes, BPF_RB_NO_WAKEUP);

	count(error ? COUNTER_RING_FULL : COUNTER_DELIVERED);
	return error;
}

#define record_output(data, bytes) record_output_to(&RING, data, bytes)

static __always_inline void fill_head(struct record_head *head, u16 kind, u32 pid)
{
	head->time_ns = bpf_ktime_get_boot_ns();
	head->kind = kind;
	head->flags = 0;
	head->pid = pid;
}

/* Who a task is, by reads that every kernel since 5.8 allows. */
static __always_inline void fill_actor(struct actor *to, struct task_struct *task)
{
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	struct task_struct *parent = BPF_CORE_READ(task, real_parent);
	const struct cred *cred = BPF_CORE_READ(task, cred);
	struct css_set *set = BPF_CORE_READ(task, cgroups);

	to->start_ns = BPF_CORE_READ(leader, start_boottime);
	to->parent_start_ns = BPF_CORE_READ(parent, group_leader, start_boottime);
	to->cgroup_id = BPF_CORE_READ(set, dfl_cgrp, kn, id);
	to->cgroup_set = (u64)set;
	to->pid = BPF_CORE_READ(task, tgid);
	to->ppid = BPF_CORE_READ(parent, tgid);
	to->uid = BPF_CORE_READ(cred, uid.val);
	to->euid = BPF_CORE_READ(cred, euid.val);
	to->gid = BPF_CORE_READ(cred, gid.val);
	to->loginuid = UID_UNSET;
	if (bpf_core_field_exists(task->loginuid))
		to->loginuid = BPF_CORE_READ(task, loginuid.val);
	bpf_core_read(to->comm, COMM_BYTES, &leader->comm);
}

/* The beginning of an act's record: what the current task did, and the error number when the call failed. */
static __always_inline void fill_act(struct act_head *act, u16 kind, long outcome)
{
	fill_head(&act->head, kind, bpf_get_current_pid_tgid() >> 32);
	fill_actor(&act->actor, (struct task_struct *)bpf_get_current_task());
	act->error = outcome < 0 && outcome >= -4095 ? -outcome : 0;
	act->repeats = 1;
	act->key = 0;
}

/* The user's registers of the present call: its arguments, until it returns. Kernels since 5.15. */
static __always_inline const struct pt_regs *call_regs(void)
{
	return (const struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
}

enum bpf_func_id___helpers {
	BPF_FUNC_get_current_task_btf___helpers = 158,
	BPF_FUNC_task_pt_regs___helpers = 175,
};

/* Whether the current task can be had by the type that the verifier knows, whose fields cost a load instead of a call.
 * Kernels since 5.11. */
#define TYPED_TASK bpf_core_enum_value_exists(enum bpf_func_id___helpers, BPF_FUNC_get_current_task_btf___helpers)

/* The `struct file` of one of the current task's descriptors. */
static __always_inline void *open_file(long fd)
{
	struct file **files = NULL, *file = NULL;
	unsigned int places = 0;

	/* Types may say that a pointer under RCU can be NULL; the verifier then asks for each test. */
	if (TYPED_TASK) {
		struct task_struct *task = bpf_get_current_task_btf();
		struct files_struct *open = task->files;
		struct fdtable *table = open ? open->fdt : NULL;

		if (table) {
			files = table->fd;
			places = table->max_fds;
		}
	} else {
		struct task_struct *task = (struct task_struct *)bpf_get_current_task();
		struct fdtable *table = BPF_CORE_READ(task, files, fdt);

		files = BPF_CORE_READ(table, fd);
		places = BPF_CORE_READ(table, max_fds);
	}
	if (fd < 0 || fd >= places)
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), files + fd);
	return file;
}

struct task_struct___stack {
	void *stack;
} __attribute__((preserve_access_index));

/* Of x86: words of the registers, which are at the end of the thread's stack. */
#define REGS_WORDS 21
#define STACK_BYTES (16 << 10)

/* The same on every kernel; `copy` is for those that do not say where the registers are. */
static __always_inline const struct pt_regs *call_regs_by(u64 copy[REGS_WORDS])
{
#if defined(__TARGET_ARCH_x86)
	if (!bpf_core_enum_value_exists(enum bpf_func_id___helpers, BPF_FUNC_task_pt_regs___helpers)) {
		struct task_struct___stack *task = (void *)bpf_get_current_task();
		void *end = BPF_CORE_READ(task, stack) + STACK_BYTES;

		bpf_probe_read_kernel(copy, REGS_WORDS * sizeof(u64), end - REGS_WORDS * sizeof(u64));
		return (const struct pt_regs *)copy;
	}
#endif
	return call_regs();
}

/* Argument `n` of a 64-bit call. */
#if defined(__TARGET_ARCH_x86)
#define CALL_REGISTER_0 di
#define CALL_REGISTER_1 si
#define CALL_REGISTER_2 dx
#define CALL_REGISTER_3 r10
#define CALL_REGISTER_4 r8
#define CALL_REGISTER_5 r9
#define call_number(of) ((u32)(of)->orig_ax)
#else
/* The register of the first is that of the outcome by then. */
#define CALL_REGISTER_0 orig_x0
#define CALL_REGISTER_1 regs[1]
#define CALL_REGISTER_2 regs[2]
#define CALL_REGISTER_3 regs[3]
#define CALL_REGISTER_4 regs[4]
#define CALL_REGISTER_5 regs[5]
#define call_number(of) ((u32)(of)->regs[8])
#endif
#define call_arg(of, n) ((u64)(of)->CALL_REGISTER_##n)

/* One body for a call, `body(const struct pt_regs *regs, long outcome)`, in two programs: `NAME_exit` at the
 * tracepoint of its return, and `NAME_fexit` at the return of the kernel's function for the call. */
#define SYSCALL_PROGRAMS(name, duty, body)                            \
	SEC("tracepoint/syscalls/sys_exit")                           \
	int name##_exit(struct sys_exit_context *context)             \
	{                                                             \
		u64 copy[REGS_WORDS];                                 \
                                                                      \
		return TIMED(duty, body(call_regs_by(copy), context->outcome)); \
	}                                                             \
	SEC("fexit/" #name)                                           \
	int BPF_PROG(name##_fexit, const struct pt_regs *regs, long outcome) \
	{                                                             \
		return TIMED(duty, body(regs, outcome));              \
	}

#endif
