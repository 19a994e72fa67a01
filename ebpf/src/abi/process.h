/* SPDX-License-Identifier: GPL-2.0-only */
/* Records of the family `process`. */
#ifndef FLEETMEND_ABI_PROCESS_H
#define FLEETMEND_ABI_PROCESS_H

#define FILENAME_BYTES_MAX 256
#define ARGV_BYTES_MAX 1024

enum process_kind {
	KIND_EXEC = 1,
	KIND_FORK = 2,
	KIND_EXIT = 3,
};

enum exec_flags {
	FLAG_ARGV_TRUNCATED = 1,
	FLAG_ARGV_UNREADABLE = 2,
	FLAG_EXE_DELETED = 4, /* the executable has no name left in its file system, as a memfd has none */
	FLAG_FILENAME_TRUNCATED = 8,
};

struct process_identity {
	u64 start_ns; /* boot clock */
	u64 parent_start_ns;
	u64 cgroup_id;  /* of the unified hierarchy */
	u64 cgroup_set; /* equal for tasks that share every cgroup; only good while such a task lives */
	u32 ppid;
	u32 uid;
	u32 gid;
	u32 euid;
	u32 loginuid; /* 0xffffffff when unset */
	u32 reserved;
	char comm[COMM_BYTES];
	char parent_comm[COMM_BYTES];
};

/* Followed by `filename_len` bytes of the program's path (of a script: its interpreter's),
 * then `argv_len` bytes of NUL-separated arguments. */
struct exec_record {
	struct record_head head;
	struct process_identity process;
	u64 exe_inode;
	u32 exe_device; /* the kernel's own encoding: only good for comparing */
	u32 argv_total; /* bytes of the whole argument area */
	u16 argv_len;
	u16 filename_len;
	u32 reserved;
};

struct fork_record {
	struct record_head head;
	struct process_identity process;
};

struct exit_record {
	struct record_head head;
	struct process_identity process;
	u64 utime_ns; /* by ticks */
	u64 stime_ns; /* by ticks */
	u64 cpu_ns;   /* exact */
	u64 maxrss_pages;
	u32 exit_code; /* as wait(2) gives it */
	u32 reserved;
};

_Static_assert(sizeof(struct process_identity) == 88, "process_identity");
_Static_assert(sizeof(struct exec_record) == 128, "exec_record");
_Static_assert(sizeof(struct fork_record) == 104, "fork_record");
_Static_assert(sizeof(struct exit_record) == 144, "exit_record");

#endif
