//! The arguments of an execution, out of every record that holds some.

use super::join::AuditEvent;
use super::value;

/// `MAX_PROCTITLE_AUDIT_LEN` of kernel/audit.h.
const TITLE_BYTES_MAX: usize = 127;

/// The arguments out of all EXECVE records of an event, and whether some are missing. Without such a record the
/// title of the process has to do, which the kernel cuts at 128 bytes.
pub(super) fn arguments(event: &AuditEvent, bytes_max: usize) -> (Vec<String>, bool) {
    let mut args: Vec<Vec<u8>> = Vec::new();
    let (mut wanted, mut left, mut truncated) = (None, bytes_max, event.truncated);
    for record in event.all("EXECVE") {
        wanted = wanted.or_else(|| record.number::<usize>("argc"));
        for ((number, part), bytes) in &record.arguments {
            let expected = if *part > 0 {
                args.len().checked_sub(1)
            } else {
                Some(args.len())
            };
            if expected != Some(*number) {
                truncated = true;
                continue;
            }
            let kept = bytes.get(..bytes.len().min(left)).unwrap_or_default();
            truncated |= kept.len() < bytes.len();
            left -= kept.len();
            if *part > 0
                && let Some(last) = args.last_mut()
            {
                last.extend_from_slice(kept);
            } else if !kept.is_empty() || bytes.is_empty() {
                args.push(kept.to_vec());
            }
        }
    }
    if let Some(wanted) = wanted {
        truncated |= args.len() < wanted;
        let args = args
            .iter()
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .collect();
        return (args, truncated);
    }
    let title = event
        .record("PROCTITLE")
        .and_then(|record| record.title.as_deref());
    match title {
        Some(title) => (value::arguments(title), title.len() >= TITLE_BYTES_MAX),
        None => (Vec::new(), true),
    }
}
