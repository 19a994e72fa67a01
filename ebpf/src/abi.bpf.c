// SPDX-License-Identifier: GPL-2.0-only
/* Never loaded: carries the layout of every record as BTF, for the test that compares it with `abi.rs`. */
#include "vmlinux_min.h"
#include "abi.h"

struct exec_record exec_record;
struct fork_record fork_record;
struct exit_record exit_record;
struct socket_record socket_record;
struct listener_key listener_key;
struct socket_owner socket_owner;
