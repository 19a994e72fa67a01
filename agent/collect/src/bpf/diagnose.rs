//! Why a family could not be loaded: the kernel's own words, and what a person can do.

use std::error::Error;
use std::io;

use aya::programs::ProgramError;
use aya::{BtfError, EbpfError};

use super::error::FamilyError;

/// Reason of what the configuration switches off.
pub(crate) const SWITCHED_OFF: &str = "switched off by the configuration";

/// Lines of the verifier's log that are kept: the last ones name the instruction and the fault.
const VERIFIER_LINES: usize = 4;
/// Longest reason, in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// A refusal in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Diagnosis {
    pub(crate) reason: String,
    pub(crate) hint: String,
}

/// Puts a refusal into words.
pub(crate) fn diagnose(error: &FamilyError) -> Diagnosis {
    let mut reason = error.to_string();
    let mut source = error.source();
    let mut kernel = None;
    let mut verifier = None;
    let mut without_btf = matches!(error, FamilyError::NoBtf { .. });
    while let Some(cause) = source {
        if let Some(ProgramError::LoadError {
            io_error,
            verifier_log,
        }) = cause.downcast_ref()
        {
            kernel = kernel.or(io_error.raw_os_error());
            verifier = Some(tail(&verifier_log.to_string()));
            reason.push_str(": ");
            reason.push_str(&io_error.to_string());
            break;
        }
        if let Some(ProgramError::IOError(error)) = cause.downcast_ref() {
            kernel = kernel.or(error.raw_os_error());
        }
        kernel = kernel.or_else(|| {
            cause
                .downcast_ref::<io::Error>()
                .and_then(io::Error::raw_os_error)
        });
        without_btf |= matches!(cause.downcast_ref(), Some(EbpfError::NoBTF));
        without_btf |= matches!(cause.downcast_ref(), Some(BtfError::FileError { .. }));
        let words = cause.to_string();
        // Some errors show their source already.
        if !reason.contains(&words) {
            reason.push_str(": ");
            reason.push_str(&words);
        }
        source = cause.source();
    }
    if let Some(log) = verifier.filter(|log| !log.is_empty()) {
        reason.push_str("; the verifier says: ");
        reason.push_str(&log);
    }
    truncate(&mut reason);
    Diagnosis {
        reason,
        hint: hint(kernel, without_btf, error),
    }
}

fn hint(kernel: Option<i32>, without_btf: bool, error: &FamilyError) -> String {
    let hint = match kernel {
        Some(libc::EPERM | libc::EACCES) => {
            "run the agent with CAP_BPF and CAP_PERFMON, and check that the kernel's lockdown and seccomp allow bpf(2)"
        }
        Some(libc::ENOSYS) => "this kernel has no bpf(2): use one with CONFIG_BPF_SYSCALL",
        Some(libc::ENOMEM) => "the kernel has no memory left for the rings: lower the keys bpf.*_ring_bytes",
        _ if without_btf => "use a kernel with CONFIG_DEBUG_INFO_BTF (Debian 11 and newer have it)",
        _ => match error {
            FamilyError::Object { .. } | FamilyError::Map { .. } => {
                "reinstall the package: its probe objects are damaged"
            }
            FamilyError::Program { .. } => "report this kernel's release together with the reason",
            FamilyError::NoBtf { .. } => "use a kernel with CONFIG_DEBUG_INFO_BTF",
        },
    };
    hint.to_owned()
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let from = lines.len().saturating_sub(VERIFIER_LINES);
    lines.get(from..).unwrap_or_default().join(" | ")
}

fn truncate(text: &mut String) {
    if text.len() > REASON_BYTES_MAX {
        let mut end = REASON_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_for_lack_of_permission_names_the_capabilities() {
        let source = ProgramError::IOError(io::Error::from_raw_os_error(libc::EPERM));
        let error = FamilyError::Program {
            program: "on_exec",
            hook: "tp_btf sched_process_exec".to_owned(),
            source,
        };
        let diagnosis = diagnose(&error);
        assert!(diagnosis.reason.contains("on_exec"), "{diagnosis:?}");
        assert!(
            diagnosis.reason.contains("Operation not permitted"),
            "{diagnosis:?}"
        );
        assert!(diagnosis.hint.contains("CAP_BPF"), "{diagnosis:?}");
    }

    #[test]
    fn only_the_end_of_a_long_log_is_kept() {
        let log: String = (0..500).map(|line| format!("{line}: (b7) r0 = 0\n\n")).collect();
        assert_eq!(
            tail(&log),
            "496: (b7) r0 = 0 | 497: (b7) r0 = 0 | 498: (b7) r0 = 0 | 499: (b7) r0 = 0"
        );
        let mut long = "é".repeat(2000);
        truncate(&mut long);
        assert!(long.len() <= REASON_BYTES_MAX + 3 && long.ends_with('…'));
    }
}
