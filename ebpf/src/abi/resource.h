/* SPDX-License-Identifier: GPL-2.0-only */
/* What the family `resource` counts: maps that the agent reads, no records. */
#ifndef FLEETMEND_ABI_RESOURCE_H
#define FLEETMEND_ABI_RESOURCE_H

/* Bucket `i` counts what took less than 4^i microseconds and not less than 4^(i-1); the last one the rest. */
#define BUCKETS 12

enum histogram_index {
	HISTOGRAM_RUN_QUEUE = 0,
	HISTOGRAM_READ = 1,
	HISTOGRAM_WRITE = 2,
	HISTOGRAMS = 3,
};

struct histogram {
	u64 counts[BUCKETS];
	u64 sum_ns;
};

/* Who was sent to again. */
struct remote_key {
	u8 address[16]; /* IPv4 in the first four bytes */
	u16 family;
	u16 port;
	u32 reserved;
};

#define SEQUENCE_CALLS 256
/* Calls of a process are counted by their numbers; higher ones are dropped. */
#define CALL_NUMBERS 512

struct profile_settings {
	u32 only_suspects;
	u32 own_pid; /* never counted */
};

struct profile_sequence {
	u64 start_ns;
	u32 length; /* calls that were made; the first SEQUENCE_CALLS are kept */
	u32 dropped;
	char comm[COMM_BYTES];
	u16 calls[SEQUENCE_CALLS];
};

struct profile_key {
	u32 pid;
	u32 call;
};

#endif
