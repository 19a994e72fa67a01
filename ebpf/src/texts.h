/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where the record of an act on a file is put together, and the texts behind it: names that the caller gave, and paths
 * walked from an entry of the kernel to the root.
 */
#ifndef FLEETMEND_TEXTS_H
#define FLEETMEND_TEXTS_H

#include "repeats.h"

#define AT_FDCWD -100
#define TEXT_MASK (FILE_TEXT_BYTES_MAX - 1)
#define NAME_BYTES_MAX 256
#define ARGUMENT_BYTES_MAX 512
/* A text begins within FILE_TEXT_BYTES_MAX and has its whole length behind that. */
#define TEXTS_BYTES_MAX (FILE_TEXT_BYTES_MAX + ARGUMENT_BYTES_MAX)

struct scratch {
	struct file_record record;
	char text[TEXTS_BYTES_MAX + 8]; /* and a word that hashing ends in */
	u64 args[8];
	u64 used; /* bytes of the texts so far; kept here, where the verifier follows no ranges */
	u64 cut;
	u64 users;
};

/* Two for each duty. At the return of functions another task may come between on the same processor (CONFIG_PREEMPT), in
 * another program of the duty. */
#define SCRATCH_DUTIES 3

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * SCRATCH_DUTIES);
	__type(key, u32);
	__type(value, struct scratch);
} SCRATCH SEC(".maps");

/* The scratch at this place, for one user at a time. */
static __always_inline struct scratch *take_scratch(u32 at)
{
	struct scratch *scratch = bpf_map_lookup_elem(&SCRATCH, &at);

	if (!scratch)
		return NULL;
	__sync_fetch_and_add(&scratch->users, 1);
	if (*(volatile u64 *)&scratch->users == 1)
		return scratch;
	__sync_fetch_and_add(&scratch->users, -1);
	return NULL;
}

static __always_inline void give_back(struct scratch *scratch)
{
	__sync_fetch_and_add(&scratch->users, -1);
}

/* Where the next text begins: bounded where the verifier sees it, whatever the compiler knows already. */
static __always_inline char *place(struct scratch *scratch, u64 used)
{
	asm volatile("" : "+r"(used));
	return &scratch->text[used & TEXT_MASK];
}

/* Adds the names of an entry and of the folders above it to the texts, across mounts. A function of its own, so that the
 * verifier walks it once. */
__noinline int add_folders(u32 at, u64 entry, u64 mnt)
{
	struct scratch *scratch = bpf_map_lookup_elem(&SCRATCH, &at);
	struct dentry *dentry = (struct dentry *)entry;
	struct mount *mount = container_of((struct vfsmount *)mnt, struct mount, mnt);
	struct dentry *root = BPF_CORE_READ(mount, mnt.mnt_root);
	u64 begun;

	if (!scratch)
		return 0;
	begun = scratch->used;
	/* Verifiers before 6.2 or so refuse a loop that falls through to its own beginning. */
#pragma clang loop unroll(full)
	for (int depth = 0; depth < FILE_DEPTH_MAX; depth++) {
		struct dentry *parent;
		u64 used = scratch->used;
		long got;

		if (dentry == root) {
			struct mount *above = BPF_CORE_READ(mount, mnt_parent);

			if (above == mount)
				goto whole;
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mount = above;
			root = BPF_CORE_READ(mount, mnt.mnt_root);
			continue;
		}
		parent = BPF_CORE_READ(dentry, d_parent);
		if (parent == dentry)
			goto whole;
		if (used >= FILE_TEXT_BYTES_MAX - NAME_BYTES_MAX)
			break;
		got = bpf_probe_read_kernel_str(place(scratch, used), NAME_BYTES_MAX,
						BPF_CORE_READ(dentry, d_name.name));
		if (got < 0)
			break;
		scratch->used = used + got;
		dentry = parent;
	}
	scratch->cut = 1;
whole:
	return scratch->used - begun;
}

/* A number for the texts so far. */
__noinline u64 hash_texts(u32 which, u64 hash)
{
	struct scratch *scratch = bpf_map_lookup_elem(&SCRATCH, &which);
	u64 used;

	if (!scratch)
		return 0;
	used = scratch->used;
	asm volatile("" : "+r"(used));
	if (used > TEXTS_BYTES_MAX)
		return hash;
	*(u64 *)&scratch->text[used & ~7ULL] &= (1ULL << (8 * (used & 7))) - 1;
#pragma clang loop unroll(full)
	for (u32 at = 0; at < TEXTS_BYTES_MAX; at += 8) {
		if (at >= used)
			break;
		hash = mixed(hash, *(u64 *)&scratch->text[at]);
	}
	return mixed(hash, used);
}

/* Adds a text of the caller's, without its NUL. */
static __always_inline u32 add_argument(struct scratch *scratch, u64 address)
{
	u64 used = scratch->used;
	long got;

	if (used >= FILE_TEXT_BYTES_MAX - 8) {
		scratch->cut = 1;
		return 0;
	}
	got = bpf_probe_read_user_str(place(scratch, used), ARGUMENT_BYTES_MAX, (void *)address);
	if (got <= 0) {
		scratch->cut = 1;
		return 0;
	}
	if (got == ARGUMENT_BYTES_MAX)
		scratch->cut = 1;
	scratch->used = used + got - 1;
	return got - 1;
}

/* The folder that a relative name starts from. */
static __always_inline u32 add_base(u32 at, struct task_struct *task, long folder, u64 address)
{
	u64 entry, mnt;
	char first = 0;

	bpf_probe_read_user(&first, 1, (void *)address);
	if (first == '/')
		return 0;
	if (folder == AT_FDCWD) {
		struct fs_struct *fs = BPF_CORE_READ(task, fs);

		entry = (u64)BPF_CORE_READ(fs, pwd.dentry);
		mnt = (u64)BPF_CORE_READ(fs, pwd.mnt);
	} else {
		struct file *file = open_file(folder);

		if (!file)
			return 0;
		entry = (u64)BPF_CORE_READ(file, f_path.dentry);
		mnt = (u64)BPF_CORE_READ(file, f_path.mnt);
	}
	return add_folders(at, entry, mnt);
}

#endif
