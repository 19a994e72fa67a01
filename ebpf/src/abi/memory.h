/* SPDX-License-Identifier: GPL-2.0-only */
/* Records of the family `memory`. */
#ifndef FLEETMEND_ABI_MEMORY_H
#define FLEETMEND_ABI_MEMORY_H

enum memory_kind {
	KIND_PTRACE = 72,          /* `request` is that of ptrace(2) */
	KIND_PROCESS_VM_READ = 73,
	KIND_PROCESS_VM_WRITE = 74,
	KIND_PROC_MEM_READ = 75,
	KIND_PROC_MEM_WRITE = 76,
	KIND_MEMFD = 77,           /* `text` is the name given */
	KIND_FILELESS_EXEC = 78,   /* `text` is the name the file had, `other` the path it was called by */
	KIND_MAP_ANONYMOUS = 79,   /* mmap(2) of memory without a file, executable */
	KIND_PROTECT = 80,         /* mprotect(2) to executable; `request` is 1 when it is known to have no file */
	KIND_SETTING = 81,         /* a file under /proc/sys opened for writing; `text` is its path below /proc/sys */
};

/* `target.pid` is a number of the caller's own pid namespace. */
#define MEMORY_FLAG_FOREIGN_PID 1

#ifndef FLEETMEND_TARGET
#define FLEETMEND_TARGET
/* Whom an act concerns; pid 0 when it concerns nobody, start 0 when only the pid is known. */
struct target {
	u64 start_ns;
	u32 pid;
	u32 uid;
	char comm[COMM_BYTES];
};
#endif

#define MEMORY_TEXT_BYTES 128

struct memory_record {
	struct act_head act;
	struct target target;
	u64 address;
	u64 length;
	u32 protection;
	u32 request;
	char text[MEMORY_TEXT_BYTES];
	char other[MEMORY_TEXT_BYTES];
};

#endif
