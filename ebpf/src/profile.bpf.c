// SPDX-License-Identifier: GPL-2.0-only
/*
 * Profiles of system calls: which calls a process makes, how often, and in which order.
 *
 * A hook on every call costs every program some 60 ns a call, so this object is loaded and not attached: the agent
 * attaches it for a tenth of a second now and then, and a little longer for processes that are suspect.
 */
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "abi/resource.h"

struct call_arguments {
	u64 regs;
	u64 call;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct profile_settings);
} PROFILE_SETTINGS SEC(".maps");

/* By pid, with the moment the process began. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, u32);
	__type(value, u64);
} SUSPECTS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, u32);
	__type(value, struct profile_sequence);
} SEQUENCES SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct profile_key);
	__type(value, u64);
} CALLS SEC(".maps");

/* Calls of processes for which SEQUENCES had no place. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} UNPLACED SEC(".maps");

/* The stack is too small for an empty sequence; never written. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct profile_sequence);
} EMPTY SEC(".maps");

static __always_inline struct profile_sequence *begin(u32 pid)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	struct profile_sequence *made;
	u32 zero = 0;
	void *empty = bpf_map_lookup_elem(&EMPTY, &zero);

	if (!empty)
		return NULL;
	bpf_map_update_elem(&SEQUENCES, &pid, empty, BPF_NOEXIST);
	made = bpf_map_lookup_elem(&SEQUENCES, &pid);
	if (made && !made->start_ns) {
		bpf_core_read(made->comm, COMM_BYTES, &leader->comm);
		made->start_ns = BPF_CORE_READ(leader, start_boottime);
	}
	return made;
}

static __always_inline void count_call(struct profile_sequence *sequence, u32 pid, u32 call)
{
	struct profile_key key = { .pid = pid, .call = call };
	u64 *known = bpf_map_lookup_elem(&CALLS, &key);
	u64 one = 1;

	if (known) {
		__sync_fetch_and_add(known, 1);
		return;
	}
	if (bpf_map_update_elem(&CALLS, &key, &one, BPF_NOEXIST)) {
		known = bpf_map_lookup_elem(&CALLS, &key);
		if (known)
			__sync_fetch_and_add(known, 1);
		else
			__sync_fetch_and_add(&sequence->dropped, 1);
	}
}

SEC("raw_tp/sys_enter")
int on_call(struct call_arguments *ctx)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	u32 call = ctx->call;
	u32 zero = 0;
	struct profile_settings *settings = bpf_map_lookup_elem(&PROFILE_SETTINGS, &zero);
	struct profile_sequence *sequence;
	u32 place;

	if (!settings || pid == settings->own_pid)
		return 0;
	if (settings->only_suspects && !bpf_map_lookup_elem(&SUSPECTS, &pid))
		return 0;
	sequence = bpf_map_lookup_elem(&SEQUENCES, &pid);
	if (!sequence)
		sequence = begin(pid);
	if (!sequence) {
		u64 *unplaced = bpf_map_lookup_elem(&UNPLACED, &zero);

		if (unplaced)
			*unplaced += 1;
		return 0;
	}
	if (call >= CALL_NUMBERS) {
		__sync_fetch_and_add(&sequence->dropped, 1);
		return 0;
	}
	place = sequence->length;
	__sync_fetch_and_add(&sequence->length, 1);
	if (place < SEQUENCE_CALLS)
		sequence->calls[place] = call;
	count_call(sequence, pid, call);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
