/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Records that the probes write into their rings, little-endian, without implicit padding.
 *
 * `abi.rs` reads the same bytes field by field; its test compares every size and offset here (through the
 * objects' own BTF) with the ones it reads at. A change of layout raises ABI_VERSION.
 */
#ifndef FLEETMEND_ABI_H
#define FLEETMEND_ABI_H

#define ABI_VERSION 1

#define COMM_BYTES 16
#define FILENAME_BYTES_MAX 256
#define ARGV_BYTES_MAX 1024

enum record_kind {
	KIND_EXEC = 1,
	KIND_FORK = 2,
	KIND_EXIT = 3,
	KIND_CONNECT = 16,
	KIND_CONNECT_FAILED = 17,
	KIND_ACCEPT = 18,
	KIND_LISTEN = 19,
	KIND_CLOSE = 20,
};

enum record_flags {
	FLAG_ARGV_TRUNCATED = 1,
	FLAG_ARGV_UNREADABLE = 2,
	FLAG_EXE_DELETED = 4,
	FLAG_FILENAME_TRUNCATED = 8,
};

/* How the owner of a socket is known, from the surest to none. */
enum owner_source {
	OWNER_NONE = 0,
	OWNER_CALLER = 1,   /* the task that connected, listened or closed, seen in its own context */
	OWNER_LISTENER = 2, /* the task that listened on the port; the accepting one may be its child */
};

enum direction {
	DIRECTION_UNKNOWN = 0,
	DIRECTION_OUTBOUND = 1,
	DIRECTION_INBOUND = 2,
};

/* Indexes of the per-CPU counters. */
enum counter {
	COUNTER_SEEN = 0,      /* events that should become a record */
	COUNTER_DELIVERED = 1, /* records that entered the ring */
	COUNTER_RING_FULL = 2, /* records that found the ring full */
	COUNTERS = 3,
};

struct record_head {
	u64 time_ns; /* boot clock */
	u16 kind;
	u16 flags;
	u32 pid;
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

struct socket_record {
	struct record_head head;
	u64 pid_start_ns;
	u64 cgroup_id;
	u64 cgroup_set;
	u64 socket; /* equal for records of one socket while it lives */
	u64 bytes_sent;
	u64 bytes_received;
	u64 elapsed_ns; /* connect: the handshake; close: since established */
	u32 uid;
	u32 netns;
	u32 error; /* errno of a failed connect or a broken connection, else 0 */
	u32 retransmits;
	u32 srtt_us; /* smoothed round trip, microseconds */
	u16 family;
	u16 local_port;
	u16 remote_port;
	u8 owner;
	u8 direction;
	u32 reserved;
	u8 local[16]; /* IPv4 in the first four bytes */
	u8 remote[16];
	char comm[COMM_BYTES];
};

/* Who listens on a port: written by the probe, seeded at start by the agent for what listened before. */
struct listener_key {
	u32 netns;
	u16 port;
	u16 reserved;
};

struct socket_owner {
	u64 since_ns;
	u64 pid_start_ns;
	u64 cgroup_id;
	u64 cgroup_set;
	u32 pid;
	u32 uid;
	u8 owner;
	u8 direction;
	u16 reserved;
	u32 reserved2;
	char comm[COMM_BYTES];
};

_Static_assert(sizeof(struct record_head) == 16, "record_head");
_Static_assert(sizeof(struct process_identity) == 88, "process_identity");
_Static_assert(sizeof(struct exec_record) == 128, "exec_record");
_Static_assert(sizeof(struct fork_record) == 104, "fork_record");
_Static_assert(sizeof(struct exit_record) == 144, "exit_record");
_Static_assert(sizeof(struct socket_record) == 152, "socket_record");
_Static_assert(sizeof(struct listener_key) == 8, "listener_key");
_Static_assert(sizeof(struct socket_owner) == 64, "socket_owner");

#endif
