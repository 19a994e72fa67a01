/* SPDX-License-Identifier: GPL-2.0-only */
/* Records of the family `signal`. The actor is the sender; of an OOM kill, who asked for the memory. */
#ifndef FLEETMEND_ABI_SIGNAL_H
#define FLEETMEND_ABI_SIGNAL_H

enum signal_kind {
	KIND_SIGNAL = 112,
	KIND_FAULT = 113,
	KIND_OOM_KILL = 114, /* `target.start_ns` is 0 where the kernel tells the pid alone */
};

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

struct signal_record {
	struct act_head act;
	struct target target;
	u64 target_cgroup_id;
	u64 target_cgroup_set;
	u64 rss_pages;
	s32 signal;
	s32 code; /* si_code */
};

#endif
