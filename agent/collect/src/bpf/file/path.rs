//! Paths out of the texts of a record.

/// A text of the caller's.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A name behind the folder that it starts from. Empty parts and `.` are left out and `..` takes back the part before
/// it; links are not followed. `cut` puts an ellipsis where folders may be missing.
pub(super) fn joined(folders: &[u8], name: &[u8], cut: bool) -> String {
    let is_absolute = name.starts_with(b"/");
    if folders.is_empty() && !is_absolute {
        // Where it starts from is not known, or it is the root.
        return text(name);
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    if !is_absolute {
        parts.extend(folders.split(|byte| *byte == 0).filter(|part| !part.is_empty()));
        parts.reverse();
    }
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut path = String::from(if cut && !is_absolute { "…" } else { "" });
    for part in &parts {
        path.push('/');
        path.push_str(&String::from_utf8_lossy(part));
    }
    if path.is_empty() {
        path.push('/');
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_absolute_where_their_folder_is_known() {
        assert_eq!(joined(b"c\0b\0a\0", b"", false), "/a/b/c", "the file itself");
        assert_eq!(joined(b"b\0a\0", b"x", false), "/a/b/x");
        assert_eq!(joined(b"b\0a\0", b"../x/./y//z", false), "/a/x/y/z");
        assert_eq!(joined(b"a\0", b"../../..", false), "/");
        assert_eq!(joined(b"b\0a\0", b"/etc//passwd", false), "/etc/passwd");
        assert_eq!(joined(b"", b"x", false), "x", "not known from where");
        assert_eq!(joined(b"b\0a\0", b"x", true), "…/a/b/x");
        assert_eq!(joined(b"\xff\0", b"", false), "/\u{fffd}");
    }
}
