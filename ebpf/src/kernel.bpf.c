// SPDX-License-Identifier: GPL-2.0-only
/*
 * Family `kernel`: what changes the kernel itself, its mounts, namespaces, clock and names, and what passes by the hooks
 * of system calls (io_uring, 32-bit programs).
 */
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "abi/kernel.h"
#include "abi/memory.h"
#include "probe.h"
#include "acts.h"

enum duty {
	DUTY_MODULE = 0,
	DUTY_BPF = 1,
	DUTY_MOUNT = 2,
	DUTY_NAMESPACE = 3,
	DUTY_CLONE = 4,
	DUTY_ROOT = 5,
	DUTY_CLOCK = 6, /* and kexec */
	DUTY_URING = 7,
	DUTY_COMPAT = 8,
	DUTY_HOST_NAME = 9,
};

/* CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. */
#define CLONE_NEW 0x7e020080ULL

#define BPF_PROG_LOAD 5
#define BPF_OBJ_PIN 6
#define BPF_PROG_ATTACH 8
#define BPF_PROG_DETACH 9
#define BPF_RAW_TRACEPOINT_OPEN 17
#define BPF_LINK_CREATE 28
#define BPF_LINK_UPDATE 29
#define BPF_LINK_DETACH 34
#define EPERM 1

#define ELFCLASS32 1

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct module___kernel {
	char name[56];
	unsigned long taints;
};

struct proc_ns_operations___kernel {
	int type;
};

struct ns_common___kernel {
	u32 ns_type;
	const struct proc_ns_operations___kernel *ops;
};

struct inode___kernel {
	unsigned long i_ino;
	struct super_block___acts *i_sb;
	void *i_private;
};

struct file___kernel {
	struct path___acts f_path;
	struct inode___kernel *f_inode;
};

struct linux_binprm___kernel {
	const char *filename;
	char buf[256];
};

#pragma clang attribute pop

#define NSFS_MAGIC 0x6e736673

static __always_inline struct kernel_record *begin(u16 kind, long ret, struct told told)
{
	struct kernel_record *record = act_reserve(struct kernel_record, kind, ret, told);

	if (!record)
		return 0;
	record->flags = 0;
	record->value = 0;
	record->command = 0;
	record->reserved = 0;
	__builtin_memset(record->name, 0, sizeof(record->name));
	__builtin_memset(record->path, 0, sizeof(record->path));
	__builtin_memset(record->detail, 0, sizeof(record->detail));
	return record;
}

static __always_inline void module_body(u16 kind, struct module___kernel *module)
{
	struct kernel_record *record;

	if (own_act())
		return;
	count_seen();
	record = begin(kind, 0, TOLD_ONCE);
	if (!record)
		return;
	bpf_probe_read_kernel_str(record->name, sizeof(record->name), &module->name);
	record->value = BPF_CORE_READ(module, taints);
	record_submit(record);
}

SEC("tp_btf/module_load")
int BPF_PROG(on_module_load, struct module___kernel *module)
{
	return TIMED(DUTY_MODULE, module_body(KIND_MODULE_LOAD, module));
}

SEC("tp_btf/module_free")
int BPF_PROG(on_module_free, struct module___kernel *module)
{
	return TIMED(DUTY_MODULE, module_body(KIND_MODULE_UNLOAD, module));
}

static __always_inline bool changes_something(u32 command)
{
	switch (command) {
	case BPF_PROG_LOAD:
	case BPF_OBJ_PIN:
	case BPF_PROG_ATTACH:
	case BPF_PROG_DETACH:
	case BPF_RAW_TRACEPOINT_OPEN:
	case BPF_LINK_CREATE:
	case BPF_LINK_UPDATE:
	case BPF_LINK_DETACH:
		return true;
	}
	return false;
}

/* The attributes as bpf(2) lays them out: those of a load, and the path of a pin. */
struct bpf_load_attributes {
	u32 type;
	u32 unused[11];
	char name[16];
};

static __always_inline void bpf_body(const struct pt_regs *regs, long ret)
{
	u32 command = call_arg(regs, 0);
	const void *attributes = (const void *)call_arg(regs, 1);
	struct bpf_load_attributes load = {};
	struct kernel_record *record;
	u64 text = 0, what;

	if (!changes_something(command) || own_act())
		return;
	count_seen();
	/* Libraries find out what a kernel can by loads that fail; a refusal of permission is told all the same. */
	if (ret < 0 && ret != -EPERM) {
		count_filtered();
		return;
	}
	if (command == BPF_PROG_LOAD)
		bpf_probe_read_user(&load, sizeof(load), attributes);
	else if (command == BPF_OBJ_PIN || command == BPF_RAW_TRACEPOINT_OPEN)
		bpf_probe_read_user(&text, sizeof(text), attributes);
	what = mixed(mixed(*(u64 *)load.name, *(u64 *)(load.name + 8)), ret < 0);
	record = begin(KIND_BPF, ret,
		       repeats_of(KIND_BPF, (u64)command << 32 | load.type, text_sum(what, text), REPEAT_NS));
	if (!record)
		return;
	record->command = command;
	if (command == BPF_PROG_LOAD) {
		record->value = load.type;
		__builtin_memcpy(record->name, load.name, sizeof(load.name));
	} else if (text) {
		USER_TEXT(record->path, text);
	}
	record_submit(record);
}

/* Texts of the caller by their addresses; 0 for none. */
static __always_inline void texts_body(u16 kind, const struct pt_regs *regs, long ret, u64 name, u64 path,
				       u64 detail, u64 flags)
{
	struct kernel_record *record;
	u32 call = call_number(regs);
	u64 what;

	if (own_act())
		return;
	count_seen();
	what = text_sum(text_sum(text_sum(flags, path), name), detail);
	record = begin(kind, ret, repeats_of(kind, (u64)call << 32 | (ret < 0), what, REPEAT_NS));
	if (!record)
		return;
	record->command = call;
	record->flags = flags;
	if (name)
		USER_TEXT(record->name, name);
	if (path)
		USER_TEXT(record->path, path);
	if (detail)
		USER_TEXT(record->detail, detail);
	record_submit(record);
}

static __always_inline void mount_body(const struct pt_regs *regs, long ret)
{
	texts_body(KIND_MOUNT, regs, ret, call_arg(regs, 0), call_arg(regs, 1), call_arg(regs, 2),
		   call_arg(regs, 3));
}

static __always_inline void move_mount_body(const struct pt_regs *regs, long ret)
{
	texts_body(KIND_MOUNT, regs, ret, call_arg(regs, 1), call_arg(regs, 3), 0, call_arg(regs, 4));
}

static __always_inline void fsopen_body(const struct pt_regs *regs, long ret)
{
	texts_body(KIND_MOUNT, regs, ret, 0, 0, call_arg(regs, 0), call_arg(regs, 1));
}

static __always_inline void fsmount_body(const struct pt_regs *regs, long ret)
{
	texts_body(KIND_MOUNT, regs, ret, 0, 0, 0, call_arg(regs, 1));
}

static __always_inline void umount_body(const struct pt_regs *regs, long ret)
{
	texts_body(KIND_UMOUNT, regs, ret, 0, call_arg(regs, 0), 0, call_arg(regs, 1));
}

static __always_inline void chroot_body(const struct pt_regs *regs, long ret)
{
	texts_body(KIND_CHROOT, regs, ret, 0, call_arg(regs, 0), 0, 0);
}

static __always_inline void pivot_body(const struct pt_regs *regs, long ret)
{
	texts_body(KIND_PIVOT_ROOT, regs, ret, call_arg(regs, 1), call_arg(regs, 0), 0, 0);
}

static __always_inline void numbers_body(u16 kind, const struct pt_regs *regs, long ret, u64 flags, u64 value)
{
	struct kernel_record *record;
	u32 call = call_number(regs);

	if (own_act())
		return;
	count_seen();
	record = begin(kind, ret, repeats_of(kind, (u64)call << 32 | (ret < 0), flags ^ value << 32, REPEAT_NS));
	if (!record)
		return;
	record->command = call;
	record->flags = flags;
	record->value = value;
	record_submit(record);
}

/* The kind of namespace that a descriptor leads to, where the caller did not say. */
static __always_inline u64 namespace_kind(long fd)
{
	struct file___kernel *file = open_file(fd);
	struct ns_common___kernel *namespace;

	if (!file || BPF_CORE_READ(file, f_inode, i_sb, s_magic) != NSFS_MAGIC)
		return 0;
	namespace = BPF_CORE_READ(file, f_inode, i_private);
	if (bpf_core_field_exists(namespace->ns_type))
		return BPF_CORE_READ(namespace, ns_type);
	if (bpf_core_field_exists(namespace->ops->type))
		return BPF_CORE_READ(namespace, ops, type);
	return 0;
}

static __always_inline void setns_body(const struct pt_regs *regs, long ret)
{
	u64 flags = call_arg(regs, 1) & 0xffffffff;

	if (!flags)
		flags = namespace_kind((int)call_arg(regs, 0));
	numbers_body(KIND_SETNS, regs, ret, flags, 0);
}

static __always_inline void unshare_body(const struct pt_regs *regs, long ret)
{
	u64 flags = call_arg(regs, 0);

	if (flags & CLONE_NEW)
		numbers_body(KIND_UNSHARE, regs, ret, flags, 0);
}

static __always_inline void newtask_body(struct task_struct *task, u64 flags)
{
	struct kernel_record *record;

	if (!(flags & CLONE_NEW) || own_act())
		return;
	count_seen();
	record = begin(KIND_CLONE, 0, repeats_of(KIND_CLONE, flags, 0, REPEAT_NS));
	if (!record)
		return;
	record->flags = flags;
	record->value = BPF_CORE_READ(task, tgid);
	record_submit(record);
}

/* clone and clone3 alike, with the flags that a filter of calls cannot see. */
SEC("tp_btf/task_newtask")
int BPF_PROG(on_newtask, struct task_struct *task, u64 flags)
{
	return TIMED(DUTY_CLONE, newtask_body(task, flags));
}

SEC("raw_tp/task_newtask")
int on_newtask_raw(struct raw_arguments *ctx)
{
	return TIMED(DUTY_CLONE, newtask_body((struct task_struct *)ctx->args[0], ctx->args[1]));
}

static __always_inline void kexec_body(const struct pt_regs *regs, long ret)
{
	numbers_body(KIND_KEXEC, regs, ret, call_arg(regs, 3), 0);
}

static __always_inline void kexec_file_body(const struct pt_regs *regs, long ret)
{
	numbers_body(KIND_KEXEC, regs, ret, call_arg(regs, 4), 0);
}

static __always_inline void set_time_body(const struct pt_regs *regs, long ret)
{
	numbers_body(KIND_CLOCK, regs, ret, 0, 0);
}

static __always_inline void clock_settime_body(const struct pt_regs *regs, long ret)
{
	numbers_body(KIND_CLOCK, regs, ret, 0, call_arg(regs, 0) & 0xffffffff);
}

/* Reading the state of the clock changes nothing. */
static __always_inline void adjust(const struct pt_regs *regs, long ret, u64 timex, u64 clock)
{
	u32 modes = 0;

	bpf_probe_read_user(&modes, sizeof(modes), (const void *)timex);
	if (modes)
		numbers_body(KIND_CLOCK, regs, ret < 0 ? ret : 0, modes, clock);
}

static __always_inline void adjtimex_body(const struct pt_regs *regs, long ret)
{
	adjust(regs, ret, call_arg(regs, 0), 0);
}

static __always_inline void clock_adjtime_body(const struct pt_regs *regs, long ret)
{
	adjust(regs, ret, call_arg(regs, 1), call_arg(regs, 0) & 0xffffffff);
}

/* Once in a while of a process: what it does then no hook of calls sees. */
static __always_inline void uring_body(u32 entries, u32 flags)
{
	struct kernel_record *record;

	if (own_act())
		return;
	count_seen();
	record = begin(KIND_URING, 0, repeats_of(KIND_URING, 0, 0, REPEAT_LONG_NS));
	if (!record)
		return;
	record->value = entries;
	record->flags = flags;
	record_submit(record);
}

SEC("tp_btf/io_uring_create")
int BPF_PROG(on_uring, int fd, void *context, u32 entries, u32 completions, u32 flags)
{
	return TIMED(DUTY_URING, uring_body(entries, flags));
}

static __always_inline void exec_body(struct linux_binprm___kernel *bprm)
{
	u8 start[5] = {};
	struct kernel_record *record;
	struct file___acts *exe;

	bpf_core_read(start, sizeof(start), &bprm->buf);
	if (start[0] != 0x7f || start[1] != 'E' || start[2] != 'L' || start[3] != 'F' || start[4] != ELFCLASS32)
		return;
	if (own_act())
		return;
	count_seen();
	exe = BPF_CORE_READ(this_task(), mm, exe_file);
	record = begin(KIND_COMPAT, 0, repeats_of(KIND_COMPAT, BPF_CORE_READ(exe, f_inode, i_ino), 0, REPEAT_NS));
	if (!record)
		return;
	bpf_probe_read_kernel_str(record->path, sizeof(record->path), BPF_CORE_READ(bprm, filename));
	record_submit(record);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, pid_t old_pid, struct linux_binprm___kernel *bprm)
{
	return TIMED(DUTY_COMPAT, exec_body(bprm));
}

/* A name is as long as the caller says, and nothing has to end it. A length that the kernel refuses names nothing. */
static __always_inline void host_name_body(const struct pt_regs *regs, long ret)
{
	const void *text = (const void *)call_arg(regs, 0);
	u64 length = (u32)call_arg(regs, 1);
	u64 name[KERNEL_NAME_BYTES / sizeof(u64)] = {};
	struct kernel_record *record;
	u32 call = call_number(regs);
	u64 what = 0;

	if (own_act())
		return;
	count_seen();
	if (length <= sizeof(name))
		bpf_probe_read_user(name, length, text);
#pragma unroll
	for (int index = 0; index < KERNEL_NAME_BYTES / sizeof(u64); index++)
		what = mixed(what, name[index]);
	record = begin(KIND_HOST_NAME, ret,
		       repeats_of(KIND_HOST_NAME, (u64)call << 32 | (ret < 0), what, REPEAT_NS));
	if (!record)
		return;
	record->command = call;
	__builtin_memcpy(record->name, name, sizeof(name));
	record_submit(record);
}

SYSCALL_PROGRAMS(on_bpf, DUTY_BPF, bpf_body)
SYSCALL_PROGRAMS(on_mount, DUTY_MOUNT, mount_body)
SYSCALL_PROGRAMS(on_move_mount, DUTY_MOUNT, move_mount_body)
SYSCALL_PROGRAMS(on_fsopen, DUTY_MOUNT, fsopen_body)
SYSCALL_PROGRAMS(on_fsmount, DUTY_MOUNT, fsmount_body)
SYSCALL_PROGRAMS(on_umount, DUTY_MOUNT, umount_body)
SYSCALL_PROGRAMS(on_setns, DUTY_NAMESPACE, setns_body)
SYSCALL_PROGRAMS(on_unshare, DUTY_NAMESPACE, unshare_body)
SYSCALL_PROGRAMS(on_chroot, DUTY_ROOT, chroot_body)
SYSCALL_PROGRAMS(on_pivot, DUTY_ROOT, pivot_body)
SYSCALL_PROGRAMS(on_kexec, DUTY_CLOCK, kexec_body)
SYSCALL_PROGRAMS(on_kexec_file, DUTY_CLOCK, kexec_file_body)
SYSCALL_PROGRAMS(on_set_time, DUTY_CLOCK, set_time_body)
SYSCALL_PROGRAMS(on_clock_settime, DUTY_CLOCK, clock_settime_body)
SYSCALL_PROGRAMS(on_adjtimex, DUTY_CLOCK, adjtimex_body)
SYSCALL_PROGRAMS(on_clock_adjtime, DUTY_CLOCK, clock_adjtime_body)
SYSCALL_PROGRAMS(on_host_name, DUTY_HOST_NAME, host_name_body)
SYSCALL_PROGRAMS(on_domain_name, DUTY_HOST_NAME, host_name_body)

char LICENSE[] SEC("license") = "GPL";
