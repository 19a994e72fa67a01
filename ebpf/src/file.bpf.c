// SPDX-License-Identifier: GPL-2.0-only
/*
 * Family `file`: opens for writing, and what is done to names, modes, owners and attributes.
 *
 * One body for every call, at its return: the outcome is known then, and of an open the file itself. A table that the
 * agent fills says which argument of a call is what. A file that a descriptor names is told by its own path, walked
 * from its entry to the root; a name is told as the caller wrote it, with the folder it starts from.
 *
 * Acts that are equal in process, kind and file are counted for a while instead of told; files that the agent watches
 * have a ring of their own.
 */
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "abi/file.h"
#include "probe.h"
#include "repeats.h"
#include "texts.h"

#define EPERM 1
#define EACCES 13
#define O_ACCMODE 3
#define O_CREAT 0100
#define O_TRUNC 01000
#define O_PATH 010000000
#define FMODE_CREATED 0x100000
#define S_IFMT 0170000
#define S_IFREG 0100000
#define S_IFBLK 0060000
#define UNCHANGED 0xffffffff

enum duty { DUTY_OPEN, DUTY_NAMES, DUTY_METADATA };

/* Levels of shedding, the first to go first. Acts on watched files, and changes of modes, owners and attributes, are
 * never shed. */
enum shed { SHED_OPEN = 1, SHED_CREATE = 2, SHED_UNLINK = 3, SHED_NAMES = 4 };

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024); /* set by the loader */
} CRITICAL SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FILE_CALLS_MAX);
	__type(key, u32);
	__type(value, struct file_call);
} CALLS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct watched_key);
	__type(value, u32);
} WATCHED SEC(".maps");

/* How long equal acts are counted instead of told, set by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} WINDOW_NS SEC(".maps");

/* File systems whose files are no files: linux/magic.h. */
static __always_inline bool is_virtual(u64 magic)
{
	switch (magic) {
	case 0x9fa0:     /* proc */
	case 0x62656572: /* sysfs */
	case 0x1cd1:     /* devpts */
	case 0x27e0eb:   /* cgroup */
	case 0x63677270: /* cgroup2 */
	case 0x64626720: /* debugfs */
	case 0x74726163: /* tracefs */
	case 0xcafe4a11: /* bpf */
	case 0x50495045: /* pipes */
	case 0x534f434b: /* sockets */
	case 0x09041934: /* anonymous inodes */
		return true;
	}
	return false;
}

static __always_inline u32 watch_of(u64 inode, u32 device)
{
	struct watched_key key = { .inode = inode, .device = device };
	u32 *watch = bpf_map_lookup_elem(&WATCHED, &key);

	return watch ? *watch : 0;
}

/* Whether an act of this kind is left out now. */
static __always_inline bool is_shed(u32 kind, u32 flags)
{
	if (kind == FILE_OPEN)
		return shed_at(flags & FILE_CREATED ? SHED_CREATE : SHED_OPEN);
	if (kind == FILE_UNLINK || kind == FILE_TRUNCATE)
		return shed_at(SHED_UNLINK);
	if (kind == FILE_RENAME || kind == FILE_LINK || kind == FILE_SYMLINK)
		return shed_at(SHED_NAMES);
	return false;
}

/* What is known of a file that the kernel reached; false when it is not worth telling. */
static __always_inline bool fill_file(struct file_record *record, struct file *file, u32 kind)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	u32 type = BPF_CORE_READ(inode, i_mode);
	u32 flags = BPF_CORE_READ(file, f_flags);
	u32 watch;

	record->inode = BPF_CORE_READ(inode, i_ino);
	record->device = BPF_CORE_READ(inode, i_sb, s_dev);
	record->act.head.flags |= FILE_RESOLVED;
	if (is_virtual(BPF_CORE_READ(inode, i_sb, s_magic)))
		return false;
	watch = watch_of(record->inode, record->device);
	if (watch & WATCH_CRITICAL)
		record->act.head.flags |= FILE_WATCHED;
	if (kind != FILE_OPEN)
		return true;
	/* The open file keeps no word of what only the call asked for. */
	record->flags = flags | (record->flags & (O_CREAT | O_TRUNC));
	record->mode = type;
	if ((type & S_IFMT) != S_IFREG && (type & S_IFMT) != S_IFBLK)
		return false;
	if (flags & O_PATH)
		return false;
	if (BPF_CORE_READ(file, f_mode) & FMODE_CREATED)
		record->act.head.flags |= FILE_CREATED;
	else if (!(flags & O_ACCMODE)) {
		record->act.head.flags |= FILE_READ;
		return watch & WATCH_READS;
	}
	return true;
}

#define arg_at(scratch, place) ((scratch)->args[((place) - 1) & 7])

/* Adds the names that the caller gave, each behind the folder that it starts from. */
static __always_inline void add_names(u32 at, struct scratch *scratch, const struct file_call *call,
				      struct task_struct *task)
{
	struct file_record *record = &scratch->record;

	if (call->path) {
		u64 address = arg_at(scratch, call->path);
		long folder = call->folder ? (int)arg_at(scratch, call->folder) : AT_FDCWD;

		if (call->kind != FILE_SYMLINK)
			record->from_len = add_base(at, task, folder, address);
		record->path_len = add_argument(scratch, address);
	}
	if (call->target) {
		u64 address = arg_at(scratch, call->target);
		long folder = call->target_folder ? (int)arg_at(scratch, call->target_folder) : AT_FDCWD;

		record->target_from_len = add_base(at, task, folder, address);
		record->target_len = add_argument(scratch, address);
	}
}

/* Whether there was room for it. */
static __always_inline bool hand_over(struct scratch *scratch)
{
	struct file_record *record = &scratch->record;
	u64 used = scratch->used;

	if (scratch->cut)
		record->act.head.flags |= FILE_TRUNCATED;
	fill_actor(&record->act.actor, (struct task_struct *)bpf_get_current_task());
	asm volatile("" : "+r"(used));
	if (used > TEXTS_BYTES_MAX)
		used = TEXTS_BYTES_MAX;
	if (record->act.head.flags & FILE_WATCHED)
		return !record_output_to(&CRITICAL, scratch, sizeof(*record) + used);
	return !record_output(scratch, sizeof(*record) + used);
}

#define WORD(a, b, c, d, e, f, g, h)                                                                      \
	((u64)(a) | (u64)(b) << 8 | (u64)(c) << 16 | (u64)(d) << 24 | (u64)(e) << 32 | (u64)(f) << 40 | \
	 (u64)(g) << 48 | (u64)(h) << 56)

/* Whether an extended attribute says what a file may do: `security.*` and the access lists in `system.posix_acl*`. */
static __always_inline bool is_telling_attribute(const char *name)
{
	u64 first = *(const u64 *)name;
	u64 second = *(const u64 *)(name + 8);

	if (first == WORD('s', 'e', 'c', 'u', 'r', 'i', 't', 'y'))
		return (u8)second == '.';
	return first == WORD('s', 'y', 's', 't', 'e', 'm', '.', 'p') &&
	       second == WORD('o', 's', 'i', 'x', '_', 'a', 'c', 'l');
}

/* Flags that an open was asked with. */
static __always_inline u64 open_flags(const struct scratch *scratch, const struct file_call *call)
{
	u64 flags = 0;

	if (call->implied)
		return 1 | O_CREAT | O_TRUNC;
	if (call->how)
		bpf_probe_read_user(&flags, sizeof(flags), (void *)arg_at(scratch, call->how));
	else if (call->flags)
		flags = (u32)arg_at(scratch, call->flags);
	return flags;
}

static __always_inline void fill_arguments(struct scratch *scratch, const struct file_call *call, long outcome)
{
	struct file_record *record = &scratch->record;

	fill_head(&record->act.head, call->kind, bpf_get_current_pid_tgid() >> 32);
	record->act.error = outcome < 0 ? -outcome : 0;
	record->act.repeats = 1;
	record->inode = 0;
	record->device = 0;
	record->flags = 0;
	record->mode = call->mode ? arg_at(scratch, call->mode) & 07777 : 0;
	record->owner_uid = call->uid ? (u32)arg_at(scratch, call->uid) : UNCHANGED;
	record->owner_gid = call->gid ? (u32)arg_at(scratch, call->gid) : UNCHANGED;
	record->attribute_len = record->from_len = record->path_len = 0;
	record->target_from_len = record->target_len = record->reserved = 0;
	scratch->used = 0;
	scratch->cut = 0;
}

/* Tells a call that did something or was refused, with the scratch at this place. */
static __always_inline void tell(u32 at, struct scratch *scratch, const struct file_call *call,
				 const struct pt_regs *regs, long outcome)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct file_record *record;
	struct file *file = NULL;
	u64 key, repeats, *window;
	u32 kind = call->kind, zero = 0;

	scratch->args[0] = call_arg(regs, 0);
	scratch->args[1] = call_arg(regs, 1);
	scratch->args[2] = call_arg(regs, 2);
	scratch->args[3] = call_arg(regs, 3);
	scratch->args[4] = call_arg(regs, 4);
	scratch->args[5] = call_arg(regs, 5);
	record = &scratch->record;
	fill_arguments(scratch, call, outcome);
	if (kind == FILE_OPEN) {
		record->flags = open_flags(scratch, call);
		if (outcome < 0 && !(record->flags & (O_ACCMODE | O_CREAT | O_TRUNC)))
			goto filtered;
		if (outcome >= 0)
			file = open_file(outcome);
		if (outcome >= 0 && !file)
			goto filtered;
	} else if (call->fd) {
		file = open_file((int)arg_at(scratch, call->fd));
		if (!file)
			goto filtered;
	}
	if (file && !fill_file(record, file, kind))
		goto filtered;
	if (call->attribute) {
		record->attribute_len = add_argument(scratch, arg_at(scratch, call->attribute));
		if (!is_telling_attribute(scratch->text))
			goto filtered;
	}
	if (!(record->act.head.flags & FILE_WATCHED) && is_shed(kind, record->act.head.flags)) {
		count_shed();
		return;
	}
	key = mixed(record->act.head.pid, kind);
	if (file)
		key = mixed(mixed(mixed(key, record->inode), record->device), record->act.head.flags);
	else
		add_names(at, scratch, call, task);
	if (scratch->used)
		key = hash_texts(at, key);
	/* Another mode, owner or outcome is another act. */
	key = mixed(key, (u64)record->mode << 32 | record->act.error);
	key = mixed(key, (u64)record->owner_uid << 32 | record->owner_gid);
	key = mixed(key, record->flags & (O_ACCMODE | O_TRUNC)) | 1;
	window = bpf_map_lookup_elem(&WINDOW_NS, &zero);
	if (is_repeat(key, record->act.head.time_ns, window ? *window : 0, &repeats)) {
		count_aggregated();
		return;
	}
	record->act.key = key;
	record->act.repeats = repeats < UNCHANGED ? repeats + 1 : UNCHANGED;
	if (file)
		record->from_len = add_folders(at, (u64)BPF_CORE_READ(file, f_path.dentry),
					       (u64)BPF_CORE_READ(file, f_path.mnt));
	if (!hand_over(scratch))
		forget_act(key);
	return;
filtered:
	count_filtered();
}

/* Most opens read a file that nobody watches. They end here, before anything of a record is prepared. */
static __always_inline bool reads_only(long fd)
{
	struct file *file = open_file(fd);
	u32 flags = BPF_CORE_READ(file, f_flags);
	struct inode *inode;

	if ((flags & O_ACCMODE) || (BPF_CORE_READ(file, f_mode) & FMODE_CREATED))
		return false;
	if (!file || (flags & O_PATH))
		return true;
	inode = BPF_CORE_READ(file, f_inode);
	return !(watch_of(BPF_CORE_READ(inode, i_ino), BPF_CORE_READ(inode, i_sb, s_dev)) & WATCH_READS);
}

static __always_inline void called(u32 duty, u32 number, const struct pt_regs *regs, long outcome)
{
	const struct file_call *call = bpf_map_lookup_elem(&CALLS, &number);
	struct scratch *scratch;
	u32 at = duty;

	if (!call || !call->kind || own_act())
		return;
	count_seen();
	if (outcome < 0 ? outcome != -EPERM && outcome != -EACCES : call->kind == FILE_OPEN && reads_only(outcome)) {
		count_filtered();
		return;
	}
	scratch = take_scratch(at);
	if (!scratch) {
		at += SCRATCH_DUTIES;
		scratch = take_scratch(at);
	}
	if (!scratch) {
		count_map_full();
		return;
	}
	tell(at, scratch, call, regs, outcome);
	give_back(scratch);
}

/* At the return of a call: one program for many calls. */
#define EXIT_PROGRAM(name, duty)                                                                \
	SEC("tracepoint/syscalls/sys_exit")                                                     \
	int name(struct sys_exit_context *context)                                              \
	{                                                                                       \
		return TIMED(duty, called(duty, context->call, call_regs(), context->outcome)); \
	}

EXIT_PROGRAM(open_exit, DUTY_OPEN)
EXIT_PROGRAM(names_exit, DUTY_NAMES)
EXIT_PROGRAM(metadata_exit, DUTY_METADATA)

/* At the return of the kernel's own function for a call: other calls pay nothing for it. */
#define FUNCTION_PROGRAM(call, duty)                                                   \
	SEC("fexit/__x64_sys_" #call)                                                  \
	int BPF_PROG(on_##call, const struct pt_regs *regs, long outcome)              \
	{                                                                              \
		return TIMED(duty, called(duty, call_number(regs), regs, outcome));    \
	}

FUNCTION_PROGRAM(openat, DUTY_OPEN)
FUNCTION_PROGRAM(openat2, DUTY_OPEN)
FUNCTION_PROGRAM(open, DUTY_OPEN)
FUNCTION_PROGRAM(creat, DUTY_OPEN)
FUNCTION_PROGRAM(open_by_handle_at, DUTY_OPEN)
FUNCTION_PROGRAM(renameat2, DUTY_NAMES)
FUNCTION_PROGRAM(renameat, DUTY_NAMES)
FUNCTION_PROGRAM(rename, DUTY_NAMES)
FUNCTION_PROGRAM(unlinkat, DUTY_NAMES)
FUNCTION_PROGRAM(unlink, DUTY_NAMES)
FUNCTION_PROGRAM(rmdir, DUTY_NAMES)
FUNCTION_PROGRAM(linkat, DUTY_NAMES)
FUNCTION_PROGRAM(link, DUTY_NAMES)
FUNCTION_PROGRAM(symlinkat, DUTY_NAMES)
FUNCTION_PROGRAM(symlink, DUTY_NAMES)
FUNCTION_PROGRAM(truncate, DUTY_NAMES)
FUNCTION_PROGRAM(fchmodat, DUTY_METADATA)
FUNCTION_PROGRAM(fchmodat2, DUTY_METADATA)
FUNCTION_PROGRAM(chmod, DUTY_METADATA)
FUNCTION_PROGRAM(fchmod, DUTY_METADATA)
FUNCTION_PROGRAM(fchownat, DUTY_METADATA)
FUNCTION_PROGRAM(chown, DUTY_METADATA)
FUNCTION_PROGRAM(lchown, DUTY_METADATA)
FUNCTION_PROGRAM(fchown, DUTY_METADATA)
FUNCTION_PROGRAM(setxattr, DUTY_METADATA)
FUNCTION_PROGRAM(lsetxattr, DUTY_METADATA)
FUNCTION_PROGRAM(fsetxattr, DUTY_METADATA)
FUNCTION_PROGRAM(removexattr, DUTY_METADATA)
FUNCTION_PROGRAM(lremovexattr, DUTY_METADATA)
FUNCTION_PROGRAM(fremovexattr, DUTY_METADATA)
FUNCTION_PROGRAM(setxattrat, DUTY_METADATA)
FUNCTION_PROGRAM(removexattrat, DUTY_METADATA)

char LICENSE[] SEC("license") = "GPL";
