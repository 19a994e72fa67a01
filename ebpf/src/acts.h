/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the families of acts share: the kernel types that only they read, who is acted on, and counting repeats.
 *
 * Acts are rare, so everything is read by probe reads, which every kernel allows; nothing here is on a hot path.
 */
#ifndef FLEETMEND_ACTS_H
#define FLEETMEND_ACTS_H

#define PF_KERNEL_THREAD 0x00200000

/* Repeats of an act within this long become one row's `repeats`. */
#define REPEAT_NS 10000000000ULL
/* The same for what programs do all their life, such as mapping memory executable. */
#define REPEAT_LONG_NS 600000000000ULL
/* Words of a text that tell acts apart. */
#define TEXT_SUM_WORDS 16
/* What `repeats` of a row can say at most. */
#define REPEATS_MAX 0xffffffff
/* Sets of the table of repeats. */
#define REPEAT_SETS 1024

#include "repeats.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* Two words before 6.3, one since: the same bytes. */
typedef struct {
	u64 val;
} kernel_cap_t___acts;

struct namespace___acts {
	unsigned int inum;
};

struct user_namespace___acts {
	int level;
	struct namespace___acts ns;
};

struct group_info___acts {
	int ngroups;
	kgid_t gid[];
};

struct cred___acts {
	kuid_t uid;
	kgid_t gid;
	kuid_t suid;
	kgid_t sgid;
	kuid_t euid;
	kgid_t egid;
	kernel_cap_t___acts cap_permitted;
	kernel_cap_t___acts cap_effective;
	struct user_namespace___acts *user_ns;
	struct group_info___acts *group_info;
};

struct list_head___acts {
	struct list_head___acts *next;
	struct list_head___acts *prev;
};

struct upid___acts {
	int nr;
};

struct pid___acts {
	unsigned int level;
	struct upid___acts numbers[];
};

struct qstr___acts {
	const unsigned char *name;
};

struct super_block___acts {
	unsigned long s_magic;
};

struct inode___acts {
	unsigned long i_ino;
	unsigned int i_nlink;
	struct super_block___acts *i_sb;
};

struct dentry___acts {
	struct dentry___acts *d_parent;
	struct qstr___acts d_name;
};

struct path___acts {
	struct dentry___acts *dentry;
};

struct file___acts {
	struct path___acts f_path;
	struct inode___acts *f_inode;
	unsigned int f_mode;
};

struct mm_struct___acts {
	struct file___acts *exe_file;
};

struct task_struct___acts {
	unsigned int flags;
	pid_t pid;
	pid_t tgid;
	struct task_struct___acts *group_leader;
	u64 start_boottime;
	const struct cred___acts *cred;
	char comm[16];
	struct mm_struct___acts *mm;
	struct pid___acts *thread_pid;
	struct list_head___acts ptraced;
	struct list_head___acts ptrace_entry;
};

#pragma clang attribute pop

/* Arguments of a raw tracepoint; not a kernel type, so never moved. */
struct raw_arguments {
	u64 args[6];
};

static __always_inline struct task_struct___acts *this_task(void)
{
	return (struct task_struct___acts *)bpf_get_current_task();
}

static __always_inline u64 start_of(struct task_struct___acts *task)
{
	return BPF_CORE_READ(task, group_leader, start_boottime);
}

/* For how many equal acts a row stands now, itself included; none when it is counted into a later one. */
struct told {
	u64 key;
	u32 repeats;
};

#define TOLD_ONCE ((struct told){ .repeats = 1 })

static __always_inline struct told repeats_of(u32 kind, u64 what, u64 more, u64 window_ns)
{
	u64 key = mixed(start_of(this_task()), bpf_get_current_pid_tgid() >> 32);
	struct told told = {};
	u64 repeats;

	told.key = mixed(mixed(mixed(key, kind), what), more) | 1;
	if (is_repeat(told.key, bpf_ktime_get_boot_ns(), window_ns, &repeats))
		return told;
	told.repeats = repeats < REPEATS_MAX ? repeats + 1 : REPEATS_MAX;
	return told;
}

/* Room for the record of an act with its beginning filled; none when the act is counted only, or nothing is free. */
#define act_reserve(type, kind, outcome, told)                             \
	({                                                                 \
		struct told act_told = told;                               \
		type *act_record = NULL;                                   \
                                                                           \
		if (!act_told.repeats)                                     \
			count_aggregated();                                \
		else                                                       \
			act_record = record_reserve(sizeof(*act_record));  \
		if (act_record) {                                          \
			fill_act(&act_record->act, kind, outcome);         \
			act_record->act.repeats = act_told.repeats;        \
			act_record->act.key = act_told.key;                \
		} else if (act_told.repeats && act_told.key) {             \
			forget_act(act_told.key);                          \
		}                                                          \
		act_record;                                                \
	})

/* A number for as much of a user's text as a record has room for; `sum` as it is when there is none. */
static __always_inline u64 text_sum(u64 sum, u64 address)
{
	u64 words[TEXT_SUM_WORDS] = {};

	if (!address || bpf_probe_read_user_str(words, sizeof(words), (const void *)address) <= 0)
		return sum;
#pragma unroll
	for (int index = 0; index < TEXT_SUM_WORDS; index++)
		sum = mixed(sum, words[index]);
	return sum;
}

static __always_inline void fill_target(struct target *target, struct task_struct___acts *task)
{
	struct task_struct___acts *leader = BPF_CORE_READ(task, group_leader);

	target->start_ns = BPF_CORE_READ(leader, start_boottime);
	target->pid = BPF_CORE_READ(task, tgid);
	target->uid = BPF_CORE_READ(task, cred, uid.val);
	bpf_core_read(target->comm, COMM_BYTES, &leader->comm);
}

/* Whether the current task's pids are those that the host counts with. */
static __always_inline bool host_pids(void)
{
	return BPF_CORE_READ(this_task(), thread_pid, level) == 0;
}

/* A user's text; empty when it cannot be read. */
#define USER_TEXT(to, from) \
	({ \
		if (bpf_probe_read_user_str(to, sizeof(to), (const void *)(from)) < 0) \
			(to)[0] = 0; \
	})

#endif
