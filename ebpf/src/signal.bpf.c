// SPDX-License-Identifier: GPL-2.0-only
/*
 * Family `signal`: signals that a process sends to another, faults, and kills for lack of memory.
 *
 * The hooks are where the kernel makes a signal and where it chooses a victim: no call pays for them.
 */
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "abi/signal.h"
#include "probe.h"
#include "acts.h"

enum duty {
	DUTY_SIGNAL = 0,
	DUTY_OOM = 1,
};

#define SIGILL 4
#define SIGBUS 7
#define SIGFPE 8
#define SIGKILL 9
#define SIGSEGV 11
#define SIGTERM 15
#define SIGCHLD 17
#define SIGSTOP 19
#define SIGURG 23
#define SIGWINCH 28
#define SIGSYS 31

#define SI_USER 0
#define SI_QUEUE (-1)
#define SI_TKILL (-6)
#define SI_KERNEL 0x80
/* In place of a siginfo: sent by a user without one, and by the kernel. */
#define SEND_SIG_NOINFO 0
#define SEND_SIG_PRIV 1

#define RESIDENT_KINDS 4
#define SWAPPED_KIND 2

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernel_siginfo___signal {
	int si_code;
};

struct percpu_counter___signal {
	long long count;
};

struct mm_struct___counted {
	struct percpu_counter___signal rss_stat[4];
};

/* Its counters are of a type that has no name of its own: they are read where they lie. */
struct counter___signal {
	long long counter;
};

struct mm_rss_stat___signal {
	struct counter___signal count[4];
};

/* Before 6.2. */
struct mm_struct___summed {
	struct mm_rss_stat___signal rss_stat;
};

struct task_struct___signal {
	struct mm_struct___counted *mm;
};

#pragma clang attribute pop

static __always_inline bool is_fault(int signal)
{
	return signal == SIGSEGV || signal == SIGBUS || signal == SIGILL || signal == SIGFPE || signal == SIGSYS;
}

/* What terminals, runtimes and parents say to each other all day. */
static __always_inline bool is_chatter(int signal)
{
	return signal == SIGCHLD || signal == SIGURG || signal == SIGWINCH;
}

/* Levels of shedding, the first to go first. SIGKILL, SIGTERM, SIGSTOP and OOM kills are never shed. */
enum shed { SHED_SIGNAL = 1, SHED_FAULT = 2 };

static __always_inline bool is_shed(u16 kind, int signal)
{
	if (kind == KIND_FAULT)
		return shed_at(SHED_FAULT);
	return signal != SIGKILL && signal != SIGTERM && signal != SIGSTOP && shed_at(SHED_SIGNAL);
}

static __always_inline void tell(u16 kind, int signal, int code, struct task_struct *task)
{
	struct task_struct___acts *target = (struct task_struct___acts *)task;
	u64 whom = (u64)signal << 32 | (u32)BPF_CORE_READ(target, tgid);
	struct told told = repeats_of(kind, whom, start_of(target), REPEAT_NS);
	struct signal_record *record = act_reserve(struct signal_record, kind, 0, told);
	struct css_set *set;

	if (!record)
		return;
	fill_target(&record->target, target);
	set = BPF_CORE_READ(task, cgroups);
	record->target_cgroup_set = (u64)set;
	record->target_cgroup_id = BPF_CORE_READ(set, dfl_cgrp, kn, id);
	record->rss_pages = 0;
	record->signal = signal;
	record->code = code;
	record_submit(record);
}

static __always_inline void on_made(int signal, struct kernel_siginfo___signal *info, struct task_struct *task)
{
	u32 own = bpf_get_current_pid_tgid() >> 32;
	u32 target = BPF_CORE_READ(task, tgid);
	int code = SI_KERNEL;

	if ((u64)info == SEND_SIG_NOINFO)
		code = SI_USER;
	else if ((u64)info != SEND_SIG_PRIV)
		code = BPF_CORE_READ(info, si_code);
	if (own == target) {
		/* The kernel makes the signal of a fault in the context of the one that made it. */
		if (!is_fault(signal) || code <= 0 || own_act())
			return;
		count_seen();
		if (is_shed(KIND_FAULT, signal))
			count_shed();
		else
			tell(KIND_FAULT, signal, code, task);
		return;
	}
	if ((code != SI_USER && code != SI_QUEUE && code != SI_TKILL) || own_act())
		return;
	count_seen();
	if (is_chatter(signal)) {
		count_filtered();
		return;
	}
	if (is_shed(KIND_SIGNAL, signal)) {
		count_shed();
		return;
	}
	tell(KIND_SIGNAL, signal, code, task);
}

SEC("tp_btf/signal_generate")
int BPF_PROG(on_signal, int signal, struct kernel_siginfo___signal *info, struct task_struct *task)
{
	return TIMED(DUTY_SIGNAL, on_made(signal, info, task));
}

SEC("raw_tp/signal_generate")
int on_signal_raw(struct raw_arguments *ctx)
{
	return TIMED(DUTY_SIGNAL, on_made(ctx->args[0], (void *)ctx->args[1], (void *)ctx->args[2]));
}

/* The counters of other processors lag a little behind; each is counted up to a batch of pages. */
static __always_inline u64 resident_pages(struct task_struct___signal *task)
{
	struct mm_struct___counted *counted = BPF_CORE_READ(task, mm);
	struct mm_struct___summed *summed = (void *)counted;
	u64 pages = 0;

	if (!counted)
		return 0;
#pragma unroll
	for (int kind = 0; kind < RESIDENT_KINDS; kind++) {
		long long count = 0;

		if (kind == SWAPPED_KIND)
			continue;
		if (bpf_core_field_exists(summed->rss_stat.count))
			bpf_probe_read_kernel(&count, sizeof(count),
					      (const long long *)__builtin_preserve_access_index(
						      &summed->rss_stat.count) + kind);
		else
			bpf_core_read(&count, sizeof(count), &counted->rss_stat[kind].count);
		if (count > 0)
			pages += count;
	}
	return pages;
}

static __always_inline void on_victim_chosen(u64 victim)
{
	struct signal_record *record;
	/* Since 6.9 the task, before its pid. */
	struct task_struct___acts *task = victim >> 32 ? (struct task_struct___acts *)victim : NULL;

	count_seen();
	record = record_reserve(sizeof(*record));
	if (!record)
		return;
	fill_act(&record->act, KIND_OOM_KILL, 0);
	__builtin_memset(&record->target, 0, sizeof(record->target));
	record->target.pid = victim;
	record->target_cgroup_id = 0;
	record->target_cgroup_set = 0;
	record->rss_pages = 0;
	if (task) {
		struct css_set *set = BPF_CORE_READ((struct task_struct *)task, cgroups);

		fill_target(&record->target, task);
		record->rss_pages = resident_pages((struct task_struct___signal *)task);
		record->target_cgroup_set = (u64)set;
		record->target_cgroup_id = BPF_CORE_READ(set, dfl_cgrp, kn, id);
	}
	record->signal = SIGKILL;
	record->code = SI_KERNEL;
	record_submit(record);
}

SEC("raw_tp/mark_victim")
int on_victim(struct raw_arguments *ctx)
{
	return TIMED(DUTY_OOM, on_victim_chosen(ctx->args[0]));
}

char LICENSE[] SEC("license") = "GPL";
