/* SPDX-License-Identifier: GPL-2.0-only */
/* Records of the family `kernel`. */
#ifndef FLEETMEND_ABI_KERNEL_H
#define FLEETMEND_ABI_KERNEL_H

enum kernel_kind {
	KIND_MODULE_LOAD = 96,   /* `name` of the module, `value` its taints */
	KIND_MODULE_UNLOAD = 97,
	KIND_BPF = 98,           /* `command` of bpf(2), `value` the program type, `name` of the program or `path` pinned at */
	KIND_MOUNT = 99,         /* `name` the source, `path` the place, `detail` the type, `flags` of mount(2); `command` the call */
	KIND_UMOUNT = 100,
	KIND_SETNS = 101,        /* `flags` the kinds of namespaces as clone(2) has them */
	KIND_UNSHARE = 102,
	KIND_CLONE = 103,        /* `value` the pid of the child */
	KIND_CHROOT = 104,
	KIND_PIVOT_ROOT = 105,   /* `path` the new root, `name` the place of the old one */
	KIND_KEXEC = 106,
	KIND_CLOCK = 107,        /* `command` the call, `flags` the modes of adjtimex(2), `value` the clock */
	KIND_URING = 108,        /* `value` the entries, `flags` those of the setup */
	KIND_COMPAT = 109,       /* `path` of the program */
	KIND_HOST_NAME = 110,    /* `name` that was asked for; `command` the call */
};

#define KERNEL_NAME_BYTES 64
#define KERNEL_PATH_BYTES 128
#define KERNEL_DETAIL_BYTES 32

struct kernel_record {
	struct act_head act;
	u64 flags;
	u64 value;
	u32 command;
	u32 reserved;
	char name[KERNEL_NAME_BYTES];
	char path[KERNEL_PATH_BYTES];
	char detail[KERNEL_DETAIL_BYTES];
};

#endif
