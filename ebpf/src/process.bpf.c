// SPDX-License-Identifier: GPL-2.0-only
/*
 * Family `process`: exec with its arguments, fork of a process, exit of a process.
 *
 * The hooks are scheduler tracepoints: no other system call pays for them. Threads are not reported. Each hook comes
 * twice: with the types that the verifier knows, and with plain reads for kernels that refuse the first.
 */
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "abi/process.h"
#include "probe.h"

#define PF_KTHREAD 0x00200000
#define SIGNAL_GROUP_EXIT 0x00000004

enum duty { DUTY_EXEC, DUTY_FORK, DUTY_EXIT };

/* Levels of shedding, the first to go first. */
enum shed { SHED_FORK = 1, SHED_EXIT = 2 };

struct exec_scratch {
	struct exec_record record;
	char data[FILENAME_BYTES_MAX + ARGV_BYTES_MAX];
};

/* The stack is 512 bytes, so an exec is put together here. Only the one program of execs uses it, and the kernel does
 * not run a program again on a CPU where it is already running. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct exec_scratch);
} EXEC_SCRATCH SEC(".maps");

static __always_inline void fill_identity(struct process_identity *to, struct task_struct *task, const bool typed)
{
	struct task_struct *leader = GET(typed, task, group_leader);
	struct task_struct *parent = GET(typed, task, real_parent);
	struct task_struct *parent_leader = GET(typed, parent, group_leader);
	const struct cred *cred = GET(typed, task, cred);
	struct css_set *set = GET(typed, task, cgroups);
	struct cgroup *group = GET(typed, set, dfl_cgrp);
	struct kernfs_node *node = GET(typed, group, kn);

	to->start_ns = GET(typed, leader, start_boottime);
	to->parent_start_ns = GET(typed, parent_leader, start_boottime);
	to->cgroup_id = GET(typed, node, id);
	to->cgroup_set = (u64)set;
	to->ppid = GET(typed, parent, tgid);
	to->uid = GET(typed, cred, uid.val);
	to->gid = GET(typed, cred, gid.val);
	to->euid = GET(typed, cred, euid.val);
	to->loginuid = UID_UNSET;
	if (bpf_core_field_exists(task->loginuid))
		to->loginuid = GET(typed, task, loginuid.val);
	to->reserved = 0;
	bpf_core_read(to->comm, COMM_BYTES, &leader->comm);
	bpf_core_read(to->parent_comm, COMM_BYTES, &parent_leader->comm);
}

static __always_inline void exec(struct task_struct *task, struct linux_binprm *bprm, const bool typed)
{
	u32 zero = 0;
	struct exec_scratch *scratch = bpf_map_lookup_elem(&EXEC_SCRATCH, &zero);
	struct mm_struct *mm = GET(typed, task, mm);
	struct exec_record *record;
	struct super_block *block;
	struct inode *exe;
	struct file *file;
	unsigned long start, end;
	u64 used, total, wanted;
	u16 flags = 0;
	long got;

	count_seen();
	if (!scratch) {
		count_map_full();
		return;
	}
	record = &scratch->record;
	fill_head(&record->head, KIND_EXEC, GET(typed, task, tgid));
	fill_identity(&record->process, task, typed);

	got = bpf_probe_read_kernel_str(scratch->data, FILENAME_BYTES_MAX, GET(typed, bprm, interp));
	used = got > 0 ? got - 1 : 0;
	if (used >= FILENAME_BYTES_MAX)
		used = FILENAME_BYTES_MAX - 1;
	if (used == FILENAME_BYTES_MAX - 1)
		flags |= FLAG_FILENAME_TRUNCATED;

	start = GET(typed, mm, arg_start);
	end = GET(typed, mm, arg_end);
	total = end > start ? end - start : 0;
	wanted = total;
	if (wanted > ARGV_BYTES_MAX) {
		wanted = ARGV_BYTES_MAX;
		flags |= FLAG_ARGV_TRUNCATED;
	}
	/* The bounds must be seen by the verifier in these very registers. */
	asm volatile("" : "+r"(used), "+r"(wanted));
	used &= FILENAME_BYTES_MAX - 1;
	if (wanted > ARGV_BYTES_MAX)
		wanted = ARGV_BYTES_MAX;
	if (bpf_probe_read_user(scratch->data + used, wanted, (const void *)start)) {
		flags |= FLAG_ARGV_UNREADABLE;
		wanted = 0;
	}
	record->filename_len = used;
	record->argv_len = wanted;
	record->argv_total = total > UID_UNSET ? UID_UNSET : total;
	file = GET(typed, mm, exe_file);
	exe = GET(typed, file, f_inode);
	block = GET(typed, exe, i_sb);
	record->exe_inode = GET(typed, exe, i_ino);
	record->exe_device = GET(typed, block, s_dev);
	record->reserved = 0;
	if (GET(typed, exe, i_nlink) == 0)
		flags |= FLAG_EXE_DELETED;
	record->head.flags = flags;
	record_output(scratch, sizeof(*record) + used + wanted);
}

static __always_inline void fork(struct task_struct *child, const bool typed)
{
	struct fork_record *record;
	u32 pid = GET(typed, child, tgid);

	if (GET(typed, child, pid) != pid || (GET(typed, child, flags) & PF_KTHREAD))
		return;
	count_seen();
	if (shed_at(SHED_FORK)) {
		count_shed();
		return;
	}
	record = record_reserve(sizeof(*record));
	if (!record)
		return;
	fill_head(&record->head, KIND_FORK, pid);
	fill_identity(&record->process, child, typed);
	record_submit(record);
}

static __always_inline void exit(struct task_struct *task, const bool typed)
{
	struct signal_struct *signal = GET(typed, task, signal);
	struct task_struct *leader = GET(typed, task, group_leader);
	struct exit_record *record;
	u64 utime, stime, cpu;

	/* The last thread of the process, whichever it is: `live` is counted down before this hook. */
	if (GET(typed, signal, live.counter) != 0 || (GET(typed, task, flags) & PF_KTHREAD))
		return;
	count_seen();
	if (shed_at(SHED_EXIT)) {
		count_shed();
		return;
	}
	record = record_reserve(sizeof(*record));
	if (!record)
		return;
	fill_head(&record->head, KIND_EXIT, GET(typed, task, tgid));
	fill_identity(&record->process, task, typed);
	/* Threads that were reaped are in the signal struct; a leader that went first waits to be reaped. */
	utime = GET(typed, signal, utime) + GET(typed, task, utime);
	stime = GET(typed, signal, stime) + GET(typed, task, stime);
	cpu = GET(typed, signal, sum_sched_runtime) + GET(typed, task, se.sum_exec_runtime);
	if (GET(typed, task, pid) != GET(typed, task, tgid)) {
		utime += GET(typed, leader, utime);
		stime += GET(typed, leader, stime);
		cpu += GET(typed, leader, se.sum_exec_runtime);
	}
	record->utime_ns = utime;
	record->stime_ns = stime;
	record->cpu_ns = cpu;
	record->maxrss_pages = GET(typed, signal, maxrss);
	record->exit_code = (GET(typed, signal, flags) & SIGNAL_GROUP_EXIT) ? GET(typed, signal, group_exit_code)
									    : GET(typed, task, exit_code);
	record->reserved = 0;
	record_submit(record);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	return TIMED(DUTY_EXEC, exec(task, bprm, true));
}

SEC("raw_tp/sched_process_exec")
int BPF_PROG(on_exec_plain, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	return TIMED(DUTY_EXEC, exec(task, bprm, false));
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	return TIMED(DUTY_FORK, fork(child, true));
}

SEC("raw_tp/sched_process_fork")
int BPF_PROG(on_fork_plain, struct task_struct *parent, struct task_struct *child)
{
	return TIMED(DUTY_FORK, fork(child, false));
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	return TIMED(DUTY_EXIT, exit(task, true));
}

SEC("raw_tp/sched_process_exit")
int BPF_PROG(on_exit_plain, struct task_struct *task)
{
	return TIMED(DUTY_EXIT, exit(task, false));
}

char LICENSE[] SEC("license") = "GPL";
