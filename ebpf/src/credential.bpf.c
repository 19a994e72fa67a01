// SPDX-License-Identifier: GPL-2.0-only
/*
 * Family `credential`: changes of users, groups and capabilities, told only when something did change.
 *
 * Where functions of the kernel can be hooked, `commit_creds` sees every change in the task that makes it, with the
 * old credentials still in place. Elsewhere what a task had is noted as a call that may change it begins, and
 * compared when the call ends; of an exec it is compared when the new program is about to begin.
 */
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "abi/credential.h"
#include "abi/memory.h"
#include "probe.h"
#include "acts.h"
#include "held.h"

enum duty { DUTY_CHANGE = 0 };

#define CALL_UNKNOWN 0xffffffff
#define GROUPS_COMPARED 16

struct linux_binprm___creds {
	struct cred___acts *cred;
} __attribute__((preserve_access_index));

#define HELD_BEFORE 0
#define BEFORE_MAX 4096

/* What a task had when its call began. Calls that end without a word (an exec that fails) are overwritten. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, BEFORE_MAX);
	__type(key, u32);
	__type(value, struct identity_part);
} BEFORE SEC(".maps");

static __always_inline u32 groups_sum(struct group_info___acts *groups)
{
	int count = BPF_CORE_READ(groups, ngroups);
	u32 sum = count;
	u32 ids[GROUPS_COMPARED] = {};
	u32 bytes = sizeof(ids);

	if (count < GROUPS_COMPARED)
		bytes = (u32)count * sizeof(u32) & (sizeof(ids) - 1);
	if (bpf_probe_read_kernel(ids, bytes, (void *)groups + bpf_core_field_offset(groups->gid)))
		return sum;
	for (int index = 0; index < GROUPS_COMPARED; index++)
		sum = sum * 31 + ids[index];
	return sum;
}

static __always_inline void read_identity(struct identity_part *to, const struct cred___acts *cred)
{
	struct user_namespace___acts *namespace = BPF_CORE_READ(cred, user_ns);

	to->effective = 0;
	to->permitted = 0;
	bpf_core_read(&to->effective, sizeof(u64), &cred->cap_effective);
	bpf_core_read(&to->permitted, sizeof(u64), &cred->cap_permitted);
	to->uid = BPF_CORE_READ(cred, uid.val);
	to->euid = BPF_CORE_READ(cred, euid.val);
	to->suid = BPF_CORE_READ(cred, suid.val);
	to->gid = BPF_CORE_READ(cred, gid.val);
	to->egid = BPF_CORE_READ(cred, egid.val);
	to->sgid = BPF_CORE_READ(cred, sgid.val);
	to->groups = groups_sum(BPF_CORE_READ(cred, group_info));
	to->user_namespace = BPF_CORE_READ(namespace, ns.inum);
	to->level = BPF_CORE_READ(namespace, level);
	to->reserved = 0;
}

static __always_inline bool equal(const struct identity_part *one, const struct identity_part *other)
{
	return one->effective == other->effective && one->permitted == other->permitted &&
	       one->uid == other->uid && one->euid == other->euid && one->suid == other->suid &&
	       one->gid == other->gid && one->egid == other->egid && one->sgid == other->sgid &&
	       one->groups == other->groups && one->user_namespace == other->user_namespace;
}

static __always_inline u64 identity_sum(const struct identity_part *one)
{
	u64 sum = mixed(mixed(one->effective, one->permitted), (u64)one->uid << 32 | one->euid);

	sum = mixed(mixed(sum, (u64)one->suid << 32 | one->gid), (u64)one->egid << 32 | one->sgid);
	return mixed(sum, (u64)one->groups << 32 | one->user_namespace);
}

static __always_inline void tell(const struct identity_part *before, const struct identity_part *after,
				 u32 call)
{
	struct credential_record *record;
	struct told told;

	if (own_act())
		return;
	count_seen();
	if (equal(before, after) || (BPF_CORE_READ(this_task(), flags) & PF_KERNEL_THREAD)) {
		count_filtered();
		return;
	}
	/* A change to and fro is two acts; every thread of a process that makes the same one is one act. */
	told = repeats_of(call, identity_sum(before), identity_sum(after), REPEAT_NS);
	record = act_reserve(struct credential_record, KIND_CREDENTIAL, 0, told);
	if (!record)
		return;
	record->act.actor.uid = after->uid;
	record->act.actor.euid = after->euid;
	record->act.actor.gid = after->gid;
	record->before = *before;
	record->after = *after;
	record->call = call;
	record->reserved = 0;
	record_submit(record);
}

static __always_inline void note_before(void)
{
	u32 thread = (u32)bpf_get_current_pid_tgid();
	struct identity_part before;

	read_identity(&before, BPF_CORE_READ(this_task(), cred));
	hold(&BEFORE, HELD_BEFORE, BEFORE_MAX, &thread, &before);
}

static __always_inline void compare(u32 thread, u32 call)
{
	struct identity_part *known = bpf_map_lookup_elem(&BEFORE, &thread);
	struct identity_part before, after;

	if (!known)
		return;
	before = *known;
	let_go(&BEFORE, HELD_BEFORE, &thread);
	read_identity(&after, BPF_CORE_READ(this_task(), cred));
	tell(&before, &after, call);
}

static __always_inline u32 running_call(void)
{
	u64 copy[REGS_WORDS];

	return call_number(call_regs_by(copy));
}

/* Of any syscalls/sys_enter_*. */
SEC("tracepoint")
int before_call(void *ctx)
{
	return TIMED(DUTY_CHANGE, note_before());
}

/* Of any syscalls/sys_exit_*. */
SEC("tracepoint")
int after_call(void *ctx)
{
	return TIMED(DUTY_CHANGE, compare((u32)bpf_get_current_pid_tgid(), running_call()));
}

/* The thread that executes takes the number of the process, whichever thread it was. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(after_exec, struct task_struct *task, pid_t old_pid)
{
	return TIMED(DUTY_CHANGE, compare(old_pid, running_call()));
}

static __always_inline void on_new(const struct cred___acts *new)
{
	struct identity_part before, after;

	read_identity(&before, BPF_CORE_READ(this_task(), cred));
	read_identity(&after, new);
	tell(&before, &after, running_call());
}

/* Between the computing of the new credentials and their taking effect; kernels since 6.10. */
SEC("tp_btf/sched_prepare_exec")
int BPF_PROG(on_prepare_exec, struct task_struct *task, struct linux_binprm___creds *bprm)
{
	return TIMED(DUTY_CHANGE, on_new(BPF_CORE_READ(bprm, cred)));
}

SEC("fentry/commit_creds")
int BPF_PROG(on_commit, struct cred___acts *new)
{
	return TIMED(DUTY_CHANGE, on_new(new));
}

char LICENSE[] SEC("license") = "GPL";
