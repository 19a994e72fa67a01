// SPDX-License-Identifier: GPL-2.0-only
/*
 * Family `memory`: reaching into other processes, programs without a file, memory made executable; and, on the same
 * hook as /proc/PID/mem, the writing of kernel settings under /proc/sys.
 *
 * The hooks are the ends of the calls themselves, so that what is told was tried for real and its outcome is known.
 */
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "abi/memory.h"
#include "probe.h"
#include "acts.h"

enum duty {
	DUTY_PTRACE = 0,
	DUTY_PROCESS_VM = 1,
	DUTY_FILES_OF_PROC = 2,
	DUTY_MEMFD = 3,
	DUTY_FILELESS = 4,
	DUTY_MAPPING = 5,
};

#define PTRACE_POKETEXT 4
#define PTRACE_POKEDATA 5
#define PTRACE_POKEUSR 6
#define PTRACE_SETREGS 13
#define PTRACE_SETFPREGS 15
#define PTRACE_ATTACH 16
#define PTRACE_SETREGSET 0x4205
#define PTRACE_SEIZE 0x4206
/* Tracees that are looked at for the one that is meant; the newest come first. */
#define TRACEES_SEEN 16

#define PROT_EXEC 4
#define MAP_ANONYMOUS 0x20
#define PROC_SUPER_MAGIC 0x9fa0
#define FMODE_WRITE 2
#define ERRORS_FROM ((u64)-4095)
#define PATH_PARTS 6
#define PART_BYTES 32
/* Where the last part may begin at most; a power of two less one. */
#define TEXT_MASK 63
_Static_assert(TEXT_MASK + PART_BYTES < MEMORY_TEXT_BYTES, "the last part fits");

static __always_inline struct memory_record *begin(u16 kind, long ret, struct told told)
{
	struct memory_record *record = act_reserve(struct memory_record, kind, ret, told);

	if (!record)
		return 0;
	__builtin_memset(&record->target, 0, sizeof(record->target));
	record->address = 0;
	record->length = 0;
	record->protection = 0;
	record->request = 0;
	__builtin_memset(record->text, 0, sizeof(record->text));
	__builtin_memset(record->other, 0, sizeof(record->other));
	return record;
}

static __always_inline bool reaches_in(u32 request)
{
	switch (request) {
	case PTRACE_POKETEXT:
	case PTRACE_POKEDATA:
	case PTRACE_POKEUSR:
	case PTRACE_SETREGS:
	case PTRACE_SETFPREGS:
	case PTRACE_ATTACH:
	case PTRACE_SETREGSET:
	case PTRACE_SEIZE:
		return true;
	}
	return false;
}

/* The task's number in the pid namespace that its number `wanted` was given in. */
static __always_inline u32 pid_at(struct task_struct___acts *task, u32 level)
{
	struct pid___acts *pid = BPF_CORE_READ(task, thread_pid);
	struct upid___acts *numbers = (void *)pid + bpf_core_field_offset(pid->numbers);
	u32 number = 0;

	if (BPF_CORE_READ(pid, level) < level)
		return 0;
	bpf_probe_read_kernel(&number, sizeof(number),
			      (void *)numbers + level * bpf_core_type_size(struct upid___acts) +
				      bpf_core_field_offset(numbers->nr));
	return number;
}

static __always_inline struct task_struct___acts *tracee(u32 wanted)
{
	struct task_struct___acts *task = this_task();
	u32 level = BPF_CORE_READ(task, thread_pid, level);
	struct list_head___acts *head = (void *)task + bpf_core_field_offset(task->ptraced);
	struct list_head___acts *entry = BPF_CORE_READ(head, next);

#pragma unroll
	for (int seen = 0; seen < TRACEES_SEEN; seen++) {
		struct task_struct___acts *one = (void *)entry - bpf_core_field_offset(task->ptrace_entry);

		if (entry == head || !entry)
			return 0;
		if (pid_at(one, level) == wanted)
			return one;
		entry = BPF_CORE_READ(entry, next);
	}
	return 0;
}

/* A number that the caller gave: good for the host only where the caller counts as the host does. */
static __always_inline void name_target(struct memory_record *record, u32 pid)
{
	record->target.pid = pid;
	if (!host_pids())
		record->act.head.flags |= MEMORY_FLAG_FOREIGN_PID;
}

static __always_inline void ptrace_body(const struct pt_regs *regs, long ret)
{
	u32 request = call_arg(regs, 0);
	u32 pid = call_arg(regs, 1);
	struct task_struct___acts *task;
	struct memory_record *record;

	if (!reaches_in(request) || own_act())
		return;
	count_seen();
	record = begin(KIND_PTRACE, ret, repeats_of(KIND_PTRACE, (u64)request << 32 | pid, ret < 0, REPEAT_NS));
	if (!record)
		return;
	record->request = request;
	if (request <= PTRACE_POKEUSR)
		record->address = call_arg(regs, 2);
	task = tracee(pid);
	if (task)
		fill_target(&record->target, task);
	else
		name_target(record, pid);
	record_submit(record);
}

static __always_inline void process_vm(u16 kind, const struct pt_regs *regs, long ret)
{
	u32 pid = call_arg(regs, 0);
	struct memory_record *record;

	if (own_act())
		return;
	count_seen();
	if (host_pids() && pid == bpf_get_current_pid_tgid() >> 32) {
		count_filtered();
		return;
	}
	record = begin(kind, ret, repeats_of(kind, pid, ret < 0, REPEAT_NS));
	if (!record)
		return;
	record->length = ret > 0 ? ret : 0;
	name_target(record, pid);
	record_submit(record);
}

static __always_inline void readv_body(const struct pt_regs *regs, long ret)
{
	process_vm(KIND_PROCESS_VM_READ, regs, ret);
}

static __always_inline void writev_body(const struct pt_regs *regs, long ret)
{
	process_vm(KIND_PROCESS_VM_WRITE, regs, ret);
}

static __always_inline void memfd_body(const struct pt_regs *regs, long ret)
{
	struct memory_record *record;

	if (own_act())
		return;
	count_seen();
	record = begin(KIND_MEMFD, ret, repeats_of(KIND_MEMFD, ret < 0, text_sum(0, call_arg(regs, 0)), REPEAT_NS));
	if (!record)
		return;
	USER_TEXT(record->text, call_arg(regs, 0));
	record->request = call_arg(regs, 1);
	record_submit(record);
}

/* Letters of a name as one number, as far as they go in eight. */
static __always_inline u64 name_of(struct dentry___acts *dentry)
{
	u64 name = 0;

	bpf_probe_read_kernel_str(&name, sizeof(name), BPF_CORE_READ(dentry, d_name.name));
	return name;
}

#define NAME_MEM 0x6d656dULL  /* "mem" */
#define NAME_SYS 0x737973ULL  /* "sys" */

/* The pid that a folder of /proc is named by, 0 when by none. */
static __always_inline u32 pid_of(u64 name)
{
	u32 pid = 0;

	for (int index = 0; index < 8; index++) {
		u8 letter = name >> (8 * index);

		if (!letter)
			break;
		if (letter < '0' || letter > '9')
			return 0;
		pid = pid * 10 + (letter - '0');
	}
	return pid;
}

static __always_inline void mem_opened(u32 pid, bool writes)
{
	u16 kind = writes ? KIND_PROC_MEM_WRITE : KIND_PROC_MEM_READ;
	struct memory_record *record;

	if (own_act())
		return;
	count_seen();
	if (host_pids() && pid == bpf_get_current_pid_tgid() >> 32) {
		count_filtered();
		return;
	}
	record = begin(kind, 0, repeats_of(kind, pid, 0, REPEAT_NS));
	if (!record)
		return;
	name_target(record, pid);
	record_submit(record);
}

/* `text` takes the path below /proc/sys: at most PATH_PARTS names, joined by slashes. */
static __always_inline void setting_opened(struct dentry___acts *dentry)
{
	struct dentry___acts *parts[PATH_PARTS] = {};
	struct memory_record *record;
	bool found = false;
	u64 at = 0;

#pragma unroll
	for (int index = 0; index < PATH_PARTS; index++) {
		struct dentry___acts *parent = BPF_CORE_READ(dentry, d_parent);

		if (found || !dentry || parent == dentry)
			continue;
		if (name_of(dentry) == NAME_SYS && BPF_CORE_READ(parent, d_parent) == parent) {
			found = true;
			continue;
		}
		parts[index] = dentry;
		dentry = parent;
	}
	if (!found || own_act())
		return;
	count_seen();
	record = begin(KIND_SETTING, 0, repeats_of(KIND_SETTING, (u64)parts[0], 0, REPEAT_NS));
	if (!record)
		return;
#pragma unroll
	for (int index = PATH_PARTS - 1; index >= 0; index--) {
		const void *name;
		long got;

		if (!parts[index] || at > TEXT_MASK)
			continue;
		name = BPF_CORE_READ(parts[index], d_name.name);
		/* Verifiers before 6.2 need the bound as an instruction on the very register that is added. */
		asm volatile("%0 &= %1" : "+r"(at) : "i"(TEXT_MASK));
		if (at) {
			record->text[at] = '/';
			at += 1;
			asm volatile("%0 &= %1" : "+r"(at) : "i"(TEXT_MASK));
		}
		got = bpf_probe_read_kernel_str(record->text + at, PART_BYTES, name);
		if (got > 1 && got <= PART_BYTES)
			at += got - 1;
	}
	record_submit(record);
}

/* Most opens end at the first comparison: their file is not one of /proc. */
static __always_inline void on_file(struct file___acts *file)
{
	struct dentry___acts *dentry;
	bool writes;

	if (!file || BPF_CORE_READ(file, f_inode, i_sb, s_magic) != PROC_SUPER_MAGIC)
		return;
	dentry = BPF_CORE_READ(file, f_path.dentry);
	writes = BPF_CORE_READ(file, f_mode) & FMODE_WRITE;
	if (name_of(dentry) == NAME_MEM) {
		u32 pid = pid_of(name_of(BPF_CORE_READ(dentry, d_parent)));

		if (pid)
			mem_opened(pid, writes);
	} else if (writes) {
		setting_opened(dentry);
	}
}

static __always_inline void open_body(const struct pt_regs *regs, long ret)
{
	if (ret >= 0)
		on_file(open_file(ret));
}

SEC("fentry/security_file_open")
int BPF_PROG(on_file_open, struct file___acts *file)
{
	return TIMED(DUTY_FILES_OF_PROC, on_file(file));
}

struct linux_binprm___memory {
	const char *filename;
} __attribute__((preserve_access_index));

static __always_inline void exec_body(struct linux_binprm___memory *bprm)
{
	struct file___acts *exe = BPF_CORE_READ(this_task(), mm, exe_file);
	struct memory_record *record;

	if (BPF_CORE_READ(exe, f_inode, i_nlink) || own_act())
		return;
	count_seen();
	record = begin(KIND_FILELESS_EXEC, 0, TOLD_ONCE);
	if (!record)
		return;
	bpf_probe_read_kernel_str(record->text, sizeof(record->text),
				  BPF_CORE_READ(exe, f_path.dentry, d_name.name));
	bpf_probe_read_kernel_str(record->other, sizeof(record->other), BPF_CORE_READ(bprm, filename));
	record_submit(record);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, pid_t old_pid, struct linux_binprm___memory *bprm)
{
	return TIMED(DUTY_FILELESS, exec_body(bprm));
}

static __always_inline void mapped(u16 kind, u32 protection, u64 address, u64 length, long ret)
{
	struct memory_record *record;

	if (own_act())
		return;
	count_seen();
	record = begin(kind, ret, repeats_of(kind, protection, ret < 0, REPEAT_LONG_NS));
	if (!record)
		return;
	record->protection = protection;
	record->address = address;
	record->length = length;
	record_submit(record);
}

static __always_inline void mmap_body(const struct pt_regs *regs, long ret)
{
	u32 protection = call_arg(regs, 2);
	bool failed = (u64)ret >= ERRORS_FROM;

	if (!(protection & PROT_EXEC) || !(call_arg(regs, 3) & MAP_ANONYMOUS))
		return;
	mapped(KIND_MAP_ANONYMOUS, protection, failed ? 0 : ret, call_arg(regs, 1), failed ? ret : 0);
}

static __always_inline void protect_body(const struct pt_regs *regs, long ret)
{
	u32 protection = call_arg(regs, 2);

	if (protection & PROT_EXEC)
		mapped(KIND_PROTECT, protection, call_arg(regs, 0), call_arg(regs, 1), ret);
}

SYSCALL_PROGRAMS(on_ptrace, DUTY_PTRACE, ptrace_body)
SYSCALL_PROGRAMS(on_readv, DUTY_PROCESS_VM, readv_body)
SYSCALL_PROGRAMS(on_writev, DUTY_PROCESS_VM, writev_body)
SYSCALL_PROGRAMS(on_open, DUTY_FILES_OF_PROC, open_body)
SYSCALL_PROGRAMS(on_memfd, DUTY_MEMFD, memfd_body)
SYSCALL_PROGRAMS(on_mmap, DUTY_MAPPING, mmap_body)
SYSCALL_PROGRAMS(on_protect, DUTY_MAPPING, protect_body)
SYSCALL_PROGRAMS(on_pkey_protect, DUTY_MAPPING, protect_body)

char LICENSE[] SEC("license") = "GPL";
