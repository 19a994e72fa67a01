/* SPDX-License-Identifier: GPL-2.0-only */
/* Records of the family `network`. */
#ifndef FLEETMEND_ABI_NETWORK_H
#define FLEETMEND_ABI_NETWORK_H

enum socket_kind {
	KIND_CONNECT = 1,
	KIND_CONNECT_FAILED = 2,
	KIND_ACCEPT = 3,
	KIND_LISTEN = 4,
	KIND_CLOSE = 5,
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

/* Who listens on an address and port: written by the probe, seeded at start by the agent for what listened before. */
struct listener_key {
	u8 address[16]; /* as IPv6 has it, of IPv4 the mapped one; all 0 for any */
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

_Static_assert(sizeof(struct socket_record) == 152, "socket_record");
_Static_assert(sizeof(struct listener_key) == 24, "listener_key");
_Static_assert(sizeof(struct socket_owner) == 64, "socket_owner");

#endif
