//! The kernel's process connector: a netlink group that tells of forks, executions, ends, changes of users and
//! groups, ptrace and new names (drivers/connector/cn_proc.c).
//!
//! A message holds process ids and little else; what a process is called with is read of /proc at once, and is gone
//! when the process is: of programs that live a millisecond the arguments of two thirds to three quarters were
//! caught on a 2-core machine. Where they were not, the row has no arguments and `args_truncated`, no path, and what
//! the inventory knew before.
//!
//! Losses: the kernel numbers the messages of each CPU, so what the socket had no room for is counted exactly as soon
//! as the next message of that CPU comes; the kernel's own word of an overrun (ENOBUFS) without it is at least one.
//!
//! Rights: joining the group needs CAP_NET_ADMIN, in the initial network, pid and user namespaces; reading does not.
//! A kernel before 6.6 counts a listener that ended without leaving (which needs the right again) for ever: it then
//! makes messages that nobody reads, until the next boot.
//!
//! Limits: PTRACE_SEIZE is told as PTRACE_ATTACH, PTRACE_TRACEME not at all; a program that executes another within
//! the moment of the reading is told with the arguments of the second.

mod credentials;
mod exec;
mod follow;
mod message;
mod row;
mod socket;
mod task;

#[cfg(test)]
mod tests;

pub(crate) use follow::Follower;
pub(crate) use socket::ConnectorSocket;
pub(crate) use task::run;
