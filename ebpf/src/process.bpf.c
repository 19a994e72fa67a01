// SPDX-License-Identifier: GPL-2.0-only
/*
 * Family `process`: exec with its arguments, fork of a process, exit of a process.
 *
 * The hooks are scheduler tracepoints: no other system call pays for them. Threads are not reported.
 */
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "probe.h"

#define PF_KTHREAD 0x00200000
#define SIGNAL_GROUP_EXIT 0x00000004
#define UID_UNSET 0xffffffff

struct exec_scratch {
	struct exec_record record;
	char data[FILENAME_BYTES_MAX + ARGV_BYTES_MAX];
};

/* The stack is 512 bytes, so an exec is put together here. Only `on_exec` uses it, and the kernel does not
 * run a program again on a CPU where it is already running. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct exec_scratch);
} EXEC_SCRATCH SEC(".maps");

static __always_inline void fill_head(struct record_head *head, u16 kind, u32 pid)
{
	head->time_ns = bpf_ktime_get_boot_ns();
	head->kind = kind;
	head->flags = 0;
	head->pid = pid;
}

static __always_inline void fill_identity(struct process_identity *to, struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;
	struct task_struct *parent = task->real_parent;
	const struct cred *cred = task->cred;
	struct css_set *set = task->cgroups;

	to->start_ns = leader->start_boottime;
	to->parent_start_ns = parent->group_leader->start_boottime;
	to->cgroup_id = set->dfl_cgrp->kn->id;
	to->cgroup_set = (u64)set;
	to->ppid = parent->tgid;
	to->uid = cred->uid.val;
	to->gid = cred->gid.val;
	to->euid = cred->euid.val;
	to->loginuid = UID_UNSET;
	if (bpf_core_field_exists(task->loginuid))
		to->loginuid = task->loginuid.val;
	to->reserved = 0;
	bpf_probe_read_kernel(to->comm, COMM_BYTES, leader->comm);
	bpf_probe_read_kernel(to->parent_comm, COMM_BYTES, parent->group_leader->comm);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	u32 zero = 0;
	struct exec_scratch *scratch = bpf_map_lookup_elem(&EXEC_SCRATCH, &zero);
	struct exec_record *record;
	struct inode *exe;
	unsigned long start, end;
	u64 used, total, wanted;
	u16 flags = 0;
	long got;

	if (!scratch)
		return 0;
	record = &scratch->record;
	fill_head(&record->head, KIND_EXEC, task->tgid);
	fill_identity(&record->process, task);

	got = bpf_probe_read_kernel_str(scratch->data, FILENAME_BYTES_MAX, bprm->interp);
	used = got > 0 ? got - 1 : 0;
	if (used >= FILENAME_BYTES_MAX)
		used = FILENAME_BYTES_MAX - 1;
	if (used == FILENAME_BYTES_MAX - 1)
		flags |= FLAG_FILENAME_TRUNCATED;

	start = task->mm->arg_start;
	end = task->mm->arg_end;
	total = end > start ? end - start : 0;
	wanted = total;
	if (wanted > ARGV_BYTES_MAX) {
		wanted = ARGV_BYTES_MAX;
		flags |= FLAG_ARGV_TRUNCATED;
	}
	/* The bounds must be seen by the verifier in these very registers. */
	asm volatile("" : "+r"(used), "+r"(wanted));
	if (used >= FILENAME_BYTES_MAX || wanted > ARGV_BYTES_MAX)
		return 0;
	if (bpf_probe_read_user(scratch->data + used, wanted, (const void *)start)) {
		flags |= FLAG_ARGV_UNREADABLE;
		wanted = 0;
	}
	record->filename_len = used;
	record->argv_len = wanted;
	record->argv_total = total > UID_UNSET ? UID_UNSET : total;
	exe = task->mm->exe_file->f_inode;
	record->exe_inode = exe->i_ino;
	record->exe_device = exe->i_sb->s_dev;
	record->reserved = 0;
	if (exe->i_nlink == 0)
		flags |= FLAG_EXE_DELETED;
	record->head.flags = flags;

	count_handed_over(bpf_ringbuf_output(&RING, scratch, sizeof(*record) + used + wanted,
					     BPF_RB_NO_WAKEUP));
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	struct fork_record *record;

	if (child->pid != child->tgid || (child->flags & PF_KTHREAD))
		return 0;
	record = bpf_ringbuf_reserve(&RING, sizeof(*record), 0);
	count_handed_over(record ? 0 : -1);
	if (!record)
		return 0;
	fill_head(&record->head, KIND_FORK, child->tgid);
	fill_identity(&record->process, child);
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	struct signal_struct *signal = task->signal;
	struct task_struct *leader = task->group_leader;
	struct exit_record *record;
	u64 utime, stime, cpu;

	/* The last thread of the process, whichever it is: `live` is counted down before this hook. */
	if (signal->live.counter != 0 || (task->flags & PF_KTHREAD))
		return 0;
	record = bpf_ringbuf_reserve(&RING, sizeof(*record), 0);
	count_handed_over(record ? 0 : -1);
	if (!record)
		return 0;
	fill_head(&record->head, KIND_EXIT, task->tgid);
	fill_identity(&record->process, task);
	/* Threads that were reaped are in the signal struct; a leader that went first waits to be reaped. */
	utime = signal->utime + task->utime;
	stime = signal->stime + task->stime;
	cpu = signal->sum_sched_runtime + task->se.sum_exec_runtime;
	if (task->pid != task->tgid) {
		utime += leader->utime;
		stime += leader->stime;
		cpu += leader->se.sum_exec_runtime;
	}
	record->utime_ns = utime;
	record->stime_ns = stime;
	record->cpu_ns = cpu;
	record->maxrss_pages = signal->maxrss;
	record->exit_code = (signal->flags & SIGNAL_GROUP_EXIT) ? signal->group_exit_code : task->exit_code;
	record->reserved = 0;
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
