//! Every decoder of bytes from outside, fed by libFuzzer: the wire, the spool's files, certificates and signed
//! documents, the kernel's ring, the audit log, rules, models, configuration, the healer's socket and repositories of backups.
//!
//! `FLEETMEND_FUZZ_TARGET` names the target; `cargo xtask fuzz` sets it, builds our crates with coverage counters
//! and begins from the seeds that `FLEETMEND_FUZZ_SEEDS` is filled with at start: one valid input each, so that
//! the fuzzer need not guess a magic number or a signature.
//!
//! A target fails by a panic, by memory beyond libFuzzer's limit, or by an assertion about what it read: what
//! decodes must encode to the same bytes, a damaged spool must open, and no forged trust bundle is believed.

#![no_main]
#![expect(clippy::expect_used, clippy::panic, reason = "a fuzz target fails by a panic")]

mod backup;
mod document;
mod enrolment;
mod fact;
mod file;
mod seeds;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

/// Reads bytes and forgets them.
type Target = fn(&[u8]);

/// The targets by name; each has a seed in [`seeds::write`].
const TARGETS: [(&str, Target); 26] = [
    ("frame", fact::frame),
    ("batch", fact::batch),
    ("relative", fact::relative),
    ("agent-message", fact::agent_message),
    ("collector-message", fact::collector_message),
    ("kernel-record", fact::kernel_record),
    ("token", document::token),
    ("request", document::request),
    ("certificate", document::certificate),
    ("bundle", document::bundle),
    ("healer-message", document::healer_message),
    ("enrolment-request", enrolment::request),
    ("enrolment-answer", enrolment::answer),
    ("chain", enrolment::chain),
    ("identity", enrolment::identity),
    ("ledger", enrolment::ledger),
    ("address", enrolment::address),
    ("tunnel", enrolment::tunnel),
    ("audit-log", file::audit_log),
    ("rule", file::rule),
    ("journal", file::journal),
    ("log-line", file::log_line),
    ("spool", file::spool),
    ("chunk", file::chunk),
    ("backup-manifest", backup::manifest),
    ("backup-object", backup::object),
];

fn chosen() -> Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let wanted = std::env::var("FLEETMEND_FUZZ_TARGET").unwrap_or_default();
        let found = TARGETS.iter().find(|(name, _)| *name == wanted);
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        found
            .unwrap_or_else(|| panic!("FLEETMEND_FUZZ_TARGET has to be one of {}", names.join(", ")))
            .1
    })
}

/// Every panic is a failure, but for those inside Arrow, which [`fleetmend_event::batch::decode`] catches. One
/// that it does not catch ends the process all the same.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let caught = panic
            .location()
            .is_some_and(|place| place.file().contains("/arrow-"));
        if !caught {
            report(panic);
        }
    }));
}

fuzz_target!(
    init: {
        abort_on_panic();
        if let Some(folder) = std::env::var_os("FLEETMEND_FUZZ_SEEDS") {
            seeds::write(folder.as_ref());
        }
    },
    |data: &[u8]| chosen()(data)
);
