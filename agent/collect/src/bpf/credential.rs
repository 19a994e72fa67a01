//! Family `credential`: changes of users, groups and capabilities.

use fleetmend_ebpf::Family;
use fleetmend_ebpf::abi::credential::{self, CredentialRecord};
use fleetmend_ebpf::abi::repeats::ACT_SETS;
use fleetmend_ebpf::abi::{AbiError, Act};
use fleetmend_event::table::{CredentialEvent, CredentialEventKind, Source, Table};
use fleetmend_event::{Fact, Lane};

use super::calls;
use super::enrich::Enricher;
use super::repeats::Acts;
use super::spec::{At, Duty, FamilySpec, Handler, Hook, Way};

/// Notes what a task has as a call begins that may change it, and compares as the call ends.
macro_rules! around {
    ($call:literal) => {
        (
            Hook::optional(
                "before_call",
                At::Tracepoint("syscalls", concat!("sys_enter_", $call)),
            ),
            Hook::optional(
                "after_call",
                At::Tracepoint("syscalls", concat!("sys_exit_", $call)),
            ),
        )
    };
}

/// The calls that may change credentials; each is optional, for architectures differ in what they have.
const CALLS: [(Hook, Hook); 10] = [
    around!("setuid"),
    around!("setgid"),
    around!("setreuid"),
    around!("setregid"),
    around!("setresuid"),
    around!("setresgid"),
    around!("setgroups"),
    around!("capset"),
    around!("setns"),
    around!("unshare"),
];

/// The hooks of [`CALLS`], and those of an exec.
#[expect(
    clippy::indexing_slicing,
    reason = "worked out at compile time, where a wrong index ends the build"
)]
const fn with_exec<const N: usize>(exec: &[Hook]) -> [Hook; N] {
    let mut hooks = [CALLS[0].0; N];
    let mut at = 0;
    while at < CALLS.len() {
        hooks[2 * at] = CALLS[at].0;
        hooks[2 * at + 1] = CALLS[at].1;
        at += 1;
    }
    let mut more = 0;
    while more < exec.len() {
        hooks[2 * at + more] = exec[more];
        more += 1;
    }
    hooks
}

static PREPARED: [Hook; 21] = with_exec(&[Hook::new(
    "on_prepare_exec",
    At::BtfTracepoint("sched_prepare_exec"),
)]);
static COMPARED: [Hook; 23] = with_exec(&[
    Hook::new("before_call", At::Tracepoint("syscalls", "sys_enter_execve")),
    Hook::new("before_call", At::Tracepoint("syscalls", "sys_enter_execveat")),
    Hook::new("after_exec", At::BtfTracepoint("sched_process_exec")),
]);

pub(super) static SPEC: FamilySpec = FamilySpec {
    family: Family::Credential,
    table: CredentialEvent::NAME,
    table_id: CredentialEvent::ID,
    lane: Lane::Critical,
    duties: &[Duty {
        name: "changes",
        ways: &[
            Way {
                name: "every commit of credentials",
                hooks: &[Hook::new("on_commit", At::Fentry("commit_creds"))],
            },
            Way {
                name: "around the calls, and before an exec takes effect",
                hooks: &PREPARED,
            },
            Way {
                name: "around the calls and execs",
                hooks: &COMPARED,
            },
        ],
    }],
    limits: "where commits cannot be hooked, what 32-bit programs and the kernel itself change is not told, nor what \
             setfsuid and setfsgid do; of supplementary groups the first 16 are compared",
    shed: &[],
    prepare: |_, _| {},
    handler: |_| Box::new(Acts::new(Credentials, ACT_SETS)),
};

struct Credentials;

impl Handler for Credentials {
    fn record(&mut self, bytes: &[u8], cx: &mut Enricher, out: &mut Vec<Fact>) -> Result<(), AbiError> {
        let record = credential::read(bytes)?;
        let act = Act::parse(bytes)?;
        let by = CredentialEvent::by(
            cx.actor(&act),
            kind_of(&record),
            cx.clock.time_of(act.time_ns),
            act.time_ns,
            Source::Ebpf,
        );
        let row = CredentialEvent {
            call: calls::name(record.call).map(str::to_owned),
            old_uid: Some(record.before_uid),
            old_euid: Some(record.before_euid),
            old_gid: Some(record.before_gid),
            old_egid: Some(record.before_egid),
            gid: Some(record.after_gid),
            egid: Some(record.after_egid),
            old_capabilities: Some(record.before_effective),
            capabilities: Some(record.after_effective),
            user_namespace: Some(record.after_level != 0),
            uid: record.after_uid,
            euid: Some(record.after_euid),
            repeats: u64::from(act.repeats),
            ..by
        };
        out.push(row.into());
        Ok(())
    }

    fn wanted_at_slow_pace(&self, _kind: u16) -> bool {
        true
    }
}

/// The weightiest of what changed.
fn kind_of(record: &CredentialRecord) -> CredentialEventKind {
    let users_before = [record.before_uid, record.before_euid, record.before_suid];
    let users_after = [record.after_uid, record.after_euid, record.after_suid];
    if users_before != users_after {
        return CredentialEventKind::User;
    }
    let groups_before = [
        record.before_gid,
        record.before_egid,
        record.before_sgid,
        record.before_groups,
    ];
    let groups_after = [
        record.after_gid,
        record.after_egid,
        record.after_sgid,
        record.after_groups,
    ];
    if groups_before == groups_after {
        CredentialEventKind::Capabilities
    } else {
        CredentialEventKind::Group
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_is_the_weightiest_change() {
        let same = CredentialRecord::default();
        let of = |change: fn(&mut CredentialRecord)| {
            let mut record = same;
            change(&mut record);
            kind_of(&record)
        };
        assert_eq!(
            of(|record| (record.after_suid, record.after_groups) = (7, 9)),
            CredentialEventKind::User
        );
        assert_eq!(of(|record| record.after_groups = 9), CredentialEventKind::Group);
        assert_eq!(
            of(|record| record.after_effective = 1),
            CredentialEventKind::Capabilities
        );
    }
}
