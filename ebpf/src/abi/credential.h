/* SPDX-License-Identifier: GPL-2.0-only */
/* Records of the family `credential`. The actor in the head is as it is after the change. */
#ifndef FLEETMEND_ABI_CREDENTIAL_H
#define FLEETMEND_ABI_CREDENTIAL_H

#define KIND_CREDENTIAL 64

/* What of a process' credentials is compared. */
struct identity_part {
	u64 effective;
	u64 permitted;
	u32 uid;
	u32 euid;
	u32 suid;
	u32 gid;
	u32 egid;
	u32 sgid;
	u32 groups;         /* a sum over the supplementary groups */
	u32 user_namespace; /* its inode number */
	u32 level;          /* of the user namespace: 0 is the host's */
	u32 reserved;
};

struct credential_record {
	struct act_head act;
	struct identity_part before;
	struct identity_part after;
	u32 call; /* number of the system call, 0xffffffff when none is known */
	u32 reserved;
};

#endif
