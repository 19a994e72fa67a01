// SPDX-License-Identifier: GPL-2.0-only
/*
 * Family `resource`: how long tasks wait for a processor and requests for a disk, and what TCP sends again, all
 * counted in the kernel; nothing is handed over one by one.
 */
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "abi/resource.h"
#include "probe.h"
#include "held.h"

enum duty {
	DUTY_RUN_QUEUE = 0,
	DUTY_BLOCK = 1,
	DUTY_TCP = 2,
};

#define TASK_RUNNING 0
#define REQ_OP_MASK 0xff
#define REQ_OP_READ 0
#define REQ_OP_WRITE 1
#define AF_INET6 10

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct task_struct___queued {
	pid_t pid;
	unsigned int __state;
};

/* Before 5.14. */
struct task_struct___old_state {
	long state;
};

struct request___resource {
	unsigned int cmd_flags;
	u64 start_time_ns;
};

#pragma clang attribute pop

/* When a task began to wait, at the place of its pid. Two tasks may have one place: the later one takes it, and the
 * earlier one's wait is not counted. An array is chosen for its cost: these are the busiest hooks of all. */
#define WAITING_PLACES 16384
struct waiting {
	u64 since_ns;
	u32 pid;
	u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WAITING_PLACES);
	__type(key, u32);
	__type(value, struct waiting);
} WAITING SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HISTOGRAMS);
	__type(key, u32);
	__type(value, struct histogram);
} HISTOGRAM SEC(".maps");

#define HELD_RETRANSMITS 0
#define RETRANSMITS_MAX 1024

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, RETRANSMITS_MAX);
	__type(key, struct remote_key);
	__type(value, u64);
} RETRANSMITS SEC(".maps");

static __always_inline void observe(u32 which, u64 ns)
{
	struct histogram *histogram = bpf_map_lookup_elem(&HISTOGRAM, &which);
	u64 limit_ns = 1000;
	u32 bucket = 0;

	if (!histogram)
		return;
#pragma unroll
	for (int index = 0; index < BUCKETS - 1; index++) {
		if (ns >= limit_ns)
			bucket = index + 1;
		limit_ns *= 4;
	}
	if (bucket >= BUCKETS)
		return;
	__sync_fetch_and_add(&histogram->counts[bucket], 1);
	__sync_fetch_and_add(&histogram->sum_ns, ns);
}

/* Waits for processors: the one thing that is measured all the time. */
#define SHED_RUN_QUEUE 1

static __always_inline void begin_waiting(u32 pid)
{
	u32 place = pid % WAITING_PLACES;
	struct waiting *waiting;

	if (shed_at(SHED_RUN_QUEUE)) {
		count_seen();
		count_shed();
		return;
	}
	waiting = bpf_map_lookup_elem(&WAITING, &place);
	if (!waiting || !pid)
		return;
	if (waiting->since_ns && waiting->pid != pid)
		count_evicted();
	waiting->pid = pid;
	waiting->since_ns = bpf_ktime_get_ns();
}

static __always_inline void end_waiting(u32 pid)
{
	u32 place = pid % WAITING_PLACES;
	struct waiting *waiting = bpf_map_lookup_elem(&WAITING, &place);
	u64 since, now;

	if (!waiting || !pid || waiting->pid != pid || !waiting->since_ns)
		return;
	since = waiting->since_ns;
	waiting->since_ns = 0;
	now = bpf_ktime_get_ns();
	if (now > since)
		observe(HISTOGRAM_RUN_QUEUE, now - since);
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(on_wakeup, struct task_struct___queued *task)
{
	return TIMED(DUTY_RUN_QUEUE, begin_waiting(task->pid));
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(on_wakeup_new, struct task_struct___queued *task)
{
	return TIMED(DUTY_RUN_QUEUE, begin_waiting(task->pid));
}

static __always_inline bool still_runs(struct task_struct___queued *task)
{
	if (bpf_core_field_exists(task->__state))
		return task->__state == TASK_RUNNING;
	return ((struct task_struct___old_state *)task)->state == TASK_RUNNING;
}

/* Who leaves without having to sleep waits again. */
static __always_inline void switched(struct task_struct___queued *before, struct task_struct___queued *next)
{
	if (still_runs(before))
		begin_waiting(before->pid);
	end_waiting(next->pid);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct___queued *before, struct task_struct___queued *next)
{
	return TIMED(DUTY_RUN_QUEUE, switched(before, next));
}

/* The kernel keeps when a request was made, as long as the disk's statistics are on. */
static __always_inline void completed(struct request___resource *request)
{
	u32 operation = BPF_CORE_READ(request, cmd_flags) & REQ_OP_MASK;
	u64 began = BPF_CORE_READ(request, start_time_ns);
	u64 now = bpf_ktime_get_ns();

	if (operation > REQ_OP_WRITE || !began || began > now)
		return;
	observe(operation == REQ_OP_WRITE ? HISTOGRAM_WRITE : HISTOGRAM_READ, now - began);
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(on_block_complete, struct request___resource *request)
{
	return TIMED(DUTY_BLOCK, completed(request));
}

static __always_inline void retransmitted(const struct sock *sk)
{
	struct remote_key key = {};
	u64 one = 1;
	u64 *known;

	key.family = BPF_CORE_READ(sk, __sk_common.skc_family);
	key.port = __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (key.family == AF_INET6)
		bpf_core_read(key.address, 16, &sk->__sk_common.skc_v6_daddr);
	else
		bpf_core_read(key.address, 4, &sk->__sk_common.skc_daddr);
	count_seen();
	count_aggregated();
	known = bpf_map_lookup_elem(&RETRANSMITS, &key);
	if (known)
		__sync_fetch_and_add(known, 1);
	else
		hold(&RETRANSMITS, HELD_RETRANSMITS, RETRANSMITS_MAX, &key, &one);
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(on_retransmit, const struct sock *sk)
{
	return TIMED(DUTY_TCP, retransmitted(sk));
}

char LICENSE[] SEC("license") = "GPL";
