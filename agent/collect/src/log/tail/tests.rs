use std::io::Write as _;

use tempfile::TempDir;

use super::*;

const ENOUGH: usize = 1 << 20;

struct Log {
    folder: TempDir,
}

impl Log {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("auth.log")
    }

    fn add(&self, text: &str) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.path())
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rename(&self, name: &str) {
        fs::rename(self.path(), self.folder.path().join(name)).unwrap();
    }
}

fn lines(tail: &mut Tail) -> Vec<String> {
    let mut lines = Vec::new();
    // A rotation is seen at the end of the old file, and read at the next look.
    for _ in 0..100 {
        let look = tail.look(ENOUGH, |line, _| {
            lines.push(String::from_utf8_lossy(line).into_owned())
        });
        if !look.unwrap().more {
            break;
        }
    }
    lines
}

fn restarted(tail: &Tail) -> Tail {
    let kept = serde_json::to_string(&tail.position().unwrap()).unwrap();
    Tail::new(
        tail.path().to_owned(),
        Some(serde_json::from_str(&kept).unwrap()),
        true,
    )
}

#[test]
fn only_what_is_written_later_is_read_and_only_when_its_line_ends() {
    let log = Log::new();
    log.add("old\n");
    let mut tail = Tail::new(log.path(), None, true);
    assert!(lines(&mut tail).is_empty());
    log.add("one\ntw");
    assert_eq!(lines(&mut tail), ["one"]);
    log.add("o\n");
    assert_eq!(lines(&mut tail), ["two"]);
}

#[test]
fn file_that_appears_later_is_read_from_its_beginning() {
    let log = Log::new();
    let mut tail = Tail::new(log.path(), None, true);
    assert!(lines(&mut tail).is_empty());
    log.add("first\n");
    assert_eq!(lines(&mut tail), ["first"]);
}

#[test]
fn renamed_file_is_read_to_its_end_before_the_new_one() {
    let log = Log::new();
    log.add("a\n");
    let mut tail = Tail::new(log.path(), None, false);
    assert_eq!(lines(&mut tail), ["a"]);
    log.add("b\n");
    log.rename("auth.log.1");
    assert_eq!(lines(&mut tail), ["b"], "no new file yet");
    File::options()
        .append(true)
        .open(log.folder.path().join("auth.log.1"))
        .unwrap()
        .write_all(b"c\n")
        .unwrap();
    log.add("d\n");
    assert_eq!(lines(&mut tail), ["c", "d"]);
}

#[test]
fn what_is_written_to_a_file_after_its_rotation_is_read_too() {
    let log = Log::new();
    log.add("a\n");
    let mut tail = Tail::new(log.path(), None, false);
    assert_eq!(lines(&mut tail), ["a"]);
    let mut writer = File::options().append(true).open(log.path()).unwrap();
    log.rename("auth.log.1");
    log.add("c\n");
    assert_eq!(lines(&mut tail), ["c"]);
    writer.write_all(b"b\nhal").unwrap();
    assert_eq!(lines(&mut tail), ["b"]);
    let mut tail = restarted(&tail);
    writer.write_all(b"f\n").unwrap();
    log.add("d\n");
    assert_eq!(lines(&mut tail), ["half", "d"], "over a restart as well");
    // Rotated once more: nobody writes to the eldest any longer.
    writer.write_all(b"end").unwrap();
    assert!(lines(&mut tail).is_empty());
    log.rename("auth.log.2");
    log.add("e\n");
    assert_eq!(lines(&mut tail), ["end", "e"]);
}

#[test]
fn fifo_in_the_place_of_a_log_is_not_waited_for() {
    let log = Log::new();
    log.add("a\n");
    let mut tail = Tail::new(log.path(), None, false);
    assert_eq!(lines(&mut tail), ["a"]);
    log.rename("auth.log.1");
    rustix::fs::mkfifoat(rustix::fs::CWD, log.path(), rustix::fs::Mode::RUSR).unwrap();
    assert!(tail.look(ENOUGH, |_, _| ()).is_err());
    assert!(
        Tail::new(log.path(), None, false)
            .look(ENOUGH, |_, _| ())
            .is_err()
    );
    fs::remove_file(log.path()).unwrap();
    log.add("b\n");
    assert_eq!(lines(&mut tail), ["b"]);
}

#[test]
fn link_of_the_owner_is_followed() {
    let log = Log::new();
    let real = log.folder.path().join("real.log");
    fs::write(&real, "a\n").unwrap();
    std::os::unix::fs::symlink(&real, log.path()).unwrap();
    assert_eq!(lines(&mut Tail::new(log.path(), None, false)), ["a"]);
}

#[test]
fn cut_file_is_read_from_its_beginning_even_when_it_grew_past_the_old_place() {
    let log = Log::new();
    log.add("one\ntwo\n");
    let mut tail = Tail::new(log.path(), None, false);
    assert_eq!(lines(&mut tail), ["one", "two"]);
    File::create(log.path()).unwrap().write_all(b"x\n").unwrap();
    assert_eq!(lines(&mut tail), ["x"]);
    File::create(log.path())
        .unwrap()
        .write_all(b"longer than before\nand more\n")
        .unwrap();
    assert_eq!(lines(&mut tail), ["longer than before", "and more"]);
}

#[test]
fn nothing_is_read_twice_or_missed_over_a_restart() {
    let log = Log::new();
    log.add("a\nb\nhal");
    let mut tail = Tail::new(log.path(), None, false);
    assert_eq!(lines(&mut tail), ["a", "b"]);
    let mut tail = restarted(&tail);
    log.add("f\nc\n");
    assert_eq!(lines(&mut tail), ["half", "c"]);
    log.add("d\n");
    log.rename("auth.log.1");
    log.add("e\n");
    let mut tail = restarted(&tail);
    assert_eq!(
        lines(&mut tail),
        ["d", "e"],
        "the renamed file is found by its inode"
    );
    log.add("f\n");
    fs::remove_file(log.path()).unwrap();
    log.add("g\n");
    let mut tail = restarted(&tail);
    let mut seen = Vec::new();
    let look = tail.look(ENOUGH, |line, _| seen.push(line.to_vec())).unwrap();
    assert!(look.lost, "what was in the file is gone, and told");
    assert_eq!(seen, [b"g"]);
}

#[test]
fn endless_line_is_cut_and_the_next_one_is_whole() {
    let log = Log::new();
    log.add(&"x".repeat(1 << 20));
    let mut tail = Tail::new(log.path(), None, false);
    let mut seen = Vec::new();
    let mut take = |line: &[u8], cut: bool| seen.push((line.len(), cut));
    while tail.look(100_000, &mut take).unwrap().more {}
    log.add("y\nnext\n");
    while tail.look(100_000, &mut take).unwrap().more {}
    assert_eq!(seen, [(LINE_BYTES_MAX, true), (4, false)]);
}

#[test]
fn bytes_that_are_no_text_and_empty_lines_do_no_harm() {
    let log = Log::new();
    let mut file = File::create(log.path()).unwrap();
    file.write_all(b"\xff\xfe\0\n\n\nlast\n").unwrap();
    let mut tail = Tail::new(log.path(), None, false);
    let seen = lines(&mut tail);
    assert_eq!(seen.last().map(String::as_str), Some("last"));
}

#[test]
fn folder_and_device_are_refused() {
    let log = Log::new();
    fs::create_dir(log.path()).unwrap();
    assert!(
        Tail::new(log.path(), None, false)
            .look(ENOUGH, |_, _| ())
            .is_err()
    );
}
