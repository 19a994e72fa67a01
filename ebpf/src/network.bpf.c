// SPDX-License-Identifier: GPL-2.0-only
/*
 * Family `network`: TCP connect, failed connect, listen, accept and close, with bytes and owner.
 *
 * One hook, the state changes of TCP sockets. It runs in the context of the owner only where the owner holds
 * the socket's lock; where it does not (the handshake is finished by whatever was running when the packet
 * came in), the owner is the one remembered for the socket, or for an accepted one that of its listener.
 *
 * The hook comes twice: with the types that the verifier knows, and with plain reads for kernels that refuse the first.
 */
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "abi/network.h"
#include "probe.h"
#include "held.h"

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6

#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_CLOSE 7
#define TCP_LISTEN 10

/* Bit of sk_flags that is set when the other side's FIN was received. */
#define SOCK_DONE_BIT 2

enum duty { DUTY_CONNECTION };

/* Levels of shedding, the first to go first. */
enum shed { SHED_CLOSE = 1, SHED_ACCEPT = 2 };

/* The maps whose entries are counted. */
enum held { HELD_SOCKETS = 0, HELD_LISTENERS = 1 };

#define SOCKETS_MAX 32768
#define LISTENERS_MAX 4096
/* Of a mapped IPv4 address: its third word. */
#define MAPPED __builtin_bswap32(0xffff)

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SOCKETS_MAX);
	__type(key, u64);
	__type(value, struct socket_owner);
} SOCKETS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, LISTENERS_MAX);
	__type(key, struct listener_key);
	__type(value, struct socket_owner);
} LISTENERS SEC(".maps");

/* The typed form of the current task came with 5.11. */
static __always_inline void own_by_current(struct socket_owner *owner, const bool typed)
{
	struct task_struct *task = typed ? bpf_get_current_task_btf() :
					   (struct task_struct *)bpf_get_current_task();
	struct task_struct *leader = GET(typed, task, group_leader);
	struct css_set *set = GET(typed, task, cgroups);
	/* Types may say that a pointer under RCU can be NULL; the verifier then asks for the tests. */
	struct cgroup *group = set ? GET(typed, set, dfl_cgrp) : NULL;
	struct kernfs_node *node = group ? GET(typed, group, kn) : NULL;

	owner->pid = bpf_get_current_pid_tgid() >> 32;
	owner->uid = (u32)bpf_get_current_uid_gid();
	owner->pid_start_ns = leader ? GET(typed, leader, start_boottime) : 0;
	owner->cgroup_id = node ? GET(typed, node, id) : 0;
	owner->cgroup_set = (u64)set;
	owner->owner = OWNER_CALLER;
	bpf_core_read(owner->comm, COMM_BYTES, &leader->comm);
}

/* The kernel gives the number of an automatic port back before it tells that the socket is closed. */
static __always_inline u16 local_port(const struct sock *sk, const bool typed)
{
	u16 port = GET(typed, sk, __sk_common.skc_num);

	return port ? port : __builtin_bswap16(BPF_CORE_READ((const struct inet_sock *)sk, inet_sport));
}

static __always_inline u32 namespace_of(const struct sock *sk, const bool typed)
{
	struct net *net = GET(typed, sk, __sk_common.skc_net.net);

	return GET(typed, net, ns.inum);
}

static __always_inline void fill_addresses(struct socket_record *record, const struct sock *sk, const bool typed)
{
	record->family = GET(typed, sk, __sk_common.skc_family);
	record->local_port = local_port(sk, typed);
	record->remote_port = __builtin_bswap16(GET(typed, sk, __sk_common.skc_dport));
	record->netns = namespace_of(sk, typed);
	__builtin_memset(record->local, 0, sizeof(record->local));
	__builtin_memset(record->remote, 0, sizeof(record->remote));
	if (record->family == AF_INET6) {
		bpf_core_read(record->local, 16, &sk->__sk_common.skc_v6_rcv_saddr);
		bpf_core_read(record->remote, 16, &sk->__sk_common.skc_v6_daddr);
	} else {
		u32 local = GET(typed, sk, __sk_common.skc_rcv_saddr);
		u32 remote = GET(typed, sk, __sk_common.skc_daddr);

		__builtin_memcpy(record->local, &local, 4);
		__builtin_memcpy(record->remote, &remote, 4);
	}
}

static __always_inline void fill_counted(struct socket_record *record, const struct tcp_sock *tcp, bool done,
					 const bool typed)
{
	u64 received = GET(typed, tcp, bytes_received);

	/* A received FIN takes a number of the sequence space and is counted as a byte. */
	if (received && done)
		received -= 1;
	record->bytes_received = received;
	record->bytes_sent = GET(typed, tcp, bytes_sent) - GET(typed, tcp, bytes_retrans);
	record->retransmits = GET(typed, tcp, total_retrans);
	record->srtt_us = GET(typed, tcp, srtt_us) >> 3;
}

static __always_inline void fill_traffic(struct socket_record *record, struct sock *sk, const bool typed)
{
	bool done = GET(typed, sk, __sk_common.skc_flags) & SOCK_DONE_BIT;
	const struct tcp_sock *tcp = typed ? bpf_skc_to_tcp_sock(sk) : NULL;

	if (tcp)
		fill_counted(record, tcp, done, true);
	else
		fill_counted(record, (const struct tcp_sock *)sk, done, false);
}

static __always_inline void emit(u16 kind, struct sock *sk, const struct socket_owner *owner, u64 now,
				 u32 level, const bool typed)
{
	struct socket_record *record;

	count_seen();
	if (level && shed_at(level)) {
		count_shed();
		return;
	}
	record = record_reserve(sizeof(*record));
	if (!record)
		return;
	record->head.time_ns = now;
	record->head.kind = kind;
	record->head.flags = 0;
	record->head.pid = owner->pid;
	record->pid_start_ns = owner->pid_start_ns;
	record->cgroup_id = owner->cgroup_id;
	record->cgroup_set = owner->cgroup_set;
	record->socket = (u64)sk;
	record->elapsed_ns = owner->since_ns ? now - owner->since_ns : 0;
	record->uid = owner->uid;
	record->error = GET(typed, sk, sk_err);
	record->owner = owner->owner;
	record->direction = owner->direction;
	record->reserved = 0;
	fill_addresses(record, sk, typed);
	fill_traffic(record, sk, typed);
	__builtin_memcpy(record->comm, owner->comm, COMM_BYTES);
	record_submit(record);
}

static __always_inline struct listener_key key_of(const struct sock *sk, const bool typed)
{
	struct listener_key key = {
		.netns = namespace_of(sk, typed),
		.port = local_port(sk, typed),
	};
	u32 *words = (u32 *)key.address;

	if (GET(typed, sk, __sk_common.skc_family) == AF_INET6) {
		bpf_core_read(key.address, 16, &sk->__sk_common.skc_v6_rcv_saddr);
		if (!words[0] && !words[1] && words[2] == MAPPED && !words[3])
			words[2] = 0;
		return key;
	}
	words[3] = GET(typed, sk, __sk_common.skc_rcv_saddr);
	if (words[3])
		words[2] = MAPPED;
	return key;
}

/* Who listens on the socket's address, or else on every address. */
static __always_inline struct socket_owner *listener_of(const struct sock *sk, const bool typed)
{
	struct listener_key key = key_of(sk, typed);
	struct socket_owner *listener = bpf_map_lookup_elem(&LISTENERS, &key);

	if (listener)
		return listener;
	__builtin_memset(key.address, 0, sizeof(key.address));
	return bpf_map_lookup_elem(&LISTENERS, &key);
}

static __always_inline void on_connecting(u64 id, u64 now, const bool typed)
{
	struct socket_owner owner = {};

	own_by_current(&owner, typed);
	owner.since_ns = now;
	owner.direction = DIRECTION_OUTBOUND;
	hold(&SOCKETS, HELD_SOCKETS, SOCKETS_MAX, &id, &owner);
}

static __always_inline void on_connected(struct sock *sk, u64 id, u64 now, const bool typed)
{
	struct socket_owner *known = bpf_map_lookup_elem(&SOCKETS, &id);
	struct socket_owner owner = {};

	if (known)
		owner = *known;
	owner.direction = DIRECTION_OUTBOUND;
	emit(KIND_CONNECT, sk, &owner, now, 0, typed);
	owner.since_ns = now;
	/* A changed entry costs a fifth of another one in its place. */
	if (known)
		known->since_ns = now;
	else
		hold(&SOCKETS, HELD_SOCKETS, SOCKETS_MAX, &id, &owner);
}

static __always_inline void on_accepted(struct sock *sk, u64 id, u64 now, const bool typed)
{
	struct socket_owner *listener = listener_of(sk, typed);
	struct socket_owner owner = {};

	if (listener) {
		owner = *listener;
		owner.owner = OWNER_LISTENER;
	}
	owner.since_ns = 0;
	owner.direction = DIRECTION_INBOUND;
	emit(KIND_ACCEPT, sk, &owner, now, SHED_ACCEPT, typed);
	owner.since_ns = now;
	hold(&SOCKETS, HELD_SOCKETS, SOCKETS_MAX, &id, &owner);
}

static __always_inline void on_listening(struct sock *sk, u64 now, const bool typed)
{
	struct listener_key key = key_of(sk, typed);
	struct socket_owner owner = {};

	own_by_current(&owner, typed);
	owner.direction = DIRECTION_INBOUND;
	hold(&LISTENERS, HELD_LISTENERS, LISTENERS_MAX, &key, &owner);
	emit(KIND_LISTEN, sk, &owner, now, 0, typed);
}

static __always_inline void on_closed(struct sock *sk, u64 id, int oldstate, u64 now,
				      const bool typed)
{
	struct socket_owner *known = bpf_map_lookup_elem(&SOCKETS, &id);
	struct socket_owner owner = {};

	if (known) {
		owner = *known;
		let_go(&SOCKETS, HELD_SOCKETS, &id);
	}
	if (oldstate == TCP_SYN_SENT)
		emit(KIND_CONNECT_FAILED, sk, &owner, now, 0, typed);
	else
		emit(KIND_CLOSE, sk, &owner, now, SHED_CLOSE, typed);
}

/* Whoever works on the socket in its own context knows better than a guess by the listener. */
static __always_inline void learn_owner(const struct sock *sk, u64 id, const bool typed)
{
	struct socket_owner *known;

	if (!GET(typed, sk, sk_lock.owned))
		return;
	known = bpf_map_lookup_elem(&SOCKETS, &id);
	if (known && known->owner != OWNER_CALLER) {
		own_by_current(known, typed);
	} else if (!known) {
		struct socket_owner owner = {};

		own_by_current(&owner, typed);
		hold(&SOCKETS, HELD_SOCKETS, SOCKETS_MAX, &id, &owner);
	}
}

static __always_inline void on_listener_closed(const struct sock *sk, const bool typed)
{
	struct listener_key key = key_of(sk, typed);
	struct socket_owner *listener = bpf_map_lookup_elem(&LISTENERS, &key);
	u32 pid = bpf_get_current_pid_tgid() >> 32;

	/* Another process may listen on the same port (SO_REUSEPORT): its entry stays. */
	if (listener && listener->pid == pid)
		let_go(&LISTENERS, HELD_LISTENERS, &key);
}

static __always_inline void changed(struct sock *sk, int oldstate, int newstate, const bool typed)
{
	u64 id = (u64)sk;
	u64 now;

	if (GET(typed, sk, sk_protocol) != IPPROTO_TCP)
		return;
	now = bpf_ktime_get_boot_ns();
	if (newstate == TCP_SYN_SENT) {
		on_connecting(id, now, typed);
	} else if (newstate == TCP_ESTABLISHED && oldstate == TCP_SYN_SENT) {
		on_connected(sk, id, now, typed);
	} else if (newstate == TCP_ESTABLISHED && oldstate == TCP_SYN_RECV) {
		on_accepted(sk, id, now, typed);
	} else if (newstate == TCP_LISTEN) {
		on_listening(sk, now, typed);
	} else if (newstate == TCP_CLOSE && oldstate == TCP_LISTEN) {
		on_listener_closed(sk, typed);
	} else if (newstate == TCP_CLOSE && oldstate == TCP_SYN_RECV) {
		let_go(&SOCKETS, HELD_SOCKETS, &id);
	} else if (oldstate != TCP_LISTEN && newstate != TCP_SYN_RECV && oldstate != TCP_CLOSE) {
		learn_owner(sk, id, typed);
		if (newstate == TCP_CLOSE)
			on_closed(sk, id, oldstate, now, typed);
	}
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state, struct sock *sk, const int oldstate, const int newstate)
{
	return TIMED(DUTY_CONNECTION, changed(sk, oldstate, newstate, true));
}

SEC("raw_tp/inet_sock_set_state")
int BPF_PROG(on_state_plain, struct sock *sk, const int oldstate, const int newstate)
{
	return TIMED(DUTY_CONNECTION, changed(sk, oldstate, newstate, false));
}

char LICENSE[] SEC("license") = "GPL";
