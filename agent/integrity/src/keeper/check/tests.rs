use super::*;

#[test]
fn file_that_was_not_read_yet_is_only_touched_when_it_is_what_its_package_delivered() {
    let unread = FileState {
        mode: libc::S_IFREG | 0o755,
        uid: 0,
        gid: 0,
        device: 1,
        inode: 2,
        size: 3,
        changed_ns: 4,
        capabilities: 0,
        digest: Digest::None,
    };
    let linked = FileState {
        changed_ns: 5,
        digest: Digest::Whole([6; 32]),
        ..unread
    };
    let before = Before {
        baseline: Some(unread),
        last: None,
        class: Some(Class::Library),
        racy: false,
    };
    assert!(before.is_only_touched(Some(&linked), Some(true)));
    assert!(!before.is_only_touched(Some(&linked), None), "no package says");
    assert!(!before.is_only_touched(Some(&linked), Some(false)));
    assert!(!before.is_only_touched(None, Some(true)), "it is gone");
    let others = [
        FileState { inode: 9, ..linked },
        FileState { size: 9, ..linked },
        FileState {
            mode: libc::S_IFREG | 0o4755,
            ..linked
        },
    ];
    for other in others {
        assert!(!before.is_only_touched(Some(&other), Some(true)), "{other:?}");
    }
    let read = FileState {
        digest: Digest::Whole([7; 32]),
        ..unread
    };
    let before = Before {
        baseline: Some(read),
        ..before
    };
    assert!(
        !before.is_only_touched(Some(&linked), Some(true)),
        "it held something else"
    );
}
