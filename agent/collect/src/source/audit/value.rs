//! Values of fields: quoted, hexadecimal, or as they stand.

/// Fields whose bytes a program chose: the kernel writes them quoted, or in hexadecimal when they hold a quote, a
/// space or a byte that is no printable ASCII (`audit_log_untrustedstring`, kernel/audit.c).
const UNTRUSTED: &[&str] = &[
    "acct",
    "cmd",
    "comm",
    "cwd",
    "data",
    "device",
    "dir",
    "exe",
    "file",
    "grp",
    "hostname",
    "key",
    "name",
    "new-disk",
    "new-fs",
    "ocomm",
    "old-disk",
    "old-fs",
    "path",
    "proctitle",
    "root_dir",
    "vm",
    "watch",
];

/// The bytes of an unquoted value of `key`, when it is hexadecimal.
pub(super) fn decode(record_type: &str, key: &str, value: &str) -> Option<Vec<u8>> {
    let argument = record_type == "EXECVE" && is_argument(key);
    if !argument && !UNTRUSTED.contains(&key) {
        return None;
    }
    hex(value)
}

/// `a7`, or `a7[2]` for a part of a long one.
fn is_argument(key: &str) -> bool {
    argument(key).is_some()
}

/// Number and part of an argument's field.
pub(super) fn argument(key: &str) -> Option<(usize, usize)> {
    let rest = key.strip_prefix('a')?;
    match rest.split_once('[') {
        Some((number, part)) => Some((number.parse().ok()?, part.strip_suffix(']')?.parse().ok()?)),
        None => Some((rest.parse().ok()?, 0)),
    }
}

/// Bytes out of pairs of hexadecimal digits; the kernel writes capitals.
pub(super) fn hex(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if text.is_empty() || !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    text.chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}

/// A command line whose arguments are ended by NULs.
pub(super) fn arguments(bytes: &[u8]) -> Vec<String> {
    crate::process::proc_fs::split_args(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_program_chose_is_decoded() {
        assert_eq!(
            decode("PATH", "name", "2F746D702F6120"),
            Some(b"/tmp/a ".to_vec())
        );
        assert_eq!(decode("SYSCALL", "a0", "7FFF"), None, "a number");
        assert_eq!(decode("EXECVE", "a0", "6C73"), Some(b"ls".to_vec()));
        assert_eq!(decode("EXECVE", "a1[3]", "6C73"), Some(b"ls".to_vec()));
        assert_eq!(decode("EXECVE", "argc", "12"), None);
        assert_eq!(decode("PATH", "name", "(null)"), None);
        assert_eq!(decode("PATH", "inode", "12"), None);
        assert_eq!(
            (argument("a12"), argument("a1[2]"), argument("a1_len")),
            (Some((12, 0)), Some((1, 2)), None)
        );
        assert_eq!((hex("0"), hex(""), hex("0g")), (None, None, None));
    }
}
