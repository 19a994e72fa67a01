//! One line of the log as a record of fields.

use std::collections::BTreeMap;

use fleetmend_event::TimeMicros;

use super::{syscalls, value};
use crate::masking::{mask_args, mask_text};

/// Fields of a record that are kept.
const FIELDS_MAX: usize = 512;
/// Longest name of a type or a field.
const NAME_BYTES_MAX: usize = 64;

/// A record of the audit log. The fields hold the type too, as `type`, and what auditd's ENRICHED format would add:
/// the name of the call as `SYSCALL`, of the architecture as `ARCH`, and the parts of a socket address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// Type, such as `SYSCALL` or `EXECVE`.
    pub record_type: String,
    /// When the event happened, to the millisecond.
    pub time: TimeMicros,
    /// Serial of its event: records of one event have the same.
    pub serial: u64,
    /// Host that sent it, where one log holds several.
    pub node: Option<String>,
    /// Its fields; the first of two of one name.
    pub fields: BTreeMap<String, String>,
    /// Arguments of an EXECVE record by number and part, as bytes.
    pub(super) arguments: BTreeMap<(usize, usize), Vec<u8>>,
    /// The command line of a PROCTITLE record, as bytes.
    pub(super) title: Option<Vec<u8>>,
}

/// Why a line is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It does not begin with a type.
    #[error("line has no type=")]
    NoType,
    /// It does not say when and which.
    #[error("line has no msg=audit(seconds.millis:serial)")]
    NoStamp,
}

impl AuditRecord {
    /// Reads one line, without its end. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// When type, time or serial are missing; whatever else is wrong is left out.
    pub fn parse(line: &[u8]) -> Result<Self, RecordError> {
        let line = String::from_utf8_lossy(line);
        let (node, rest) = match line.strip_prefix("node=").and_then(|rest| rest.split_once(' ')) {
            Some((node, rest)) => (Some(cut(node)), rest),
            None => (None, &*line),
        };
        let (record_type, rest) = rest
            .strip_prefix("type=")
            .and_then(|rest| rest.split_once(' '))
            .ok_or(RecordError::NoType)?;
        let (stamp, rest) = rest
            .strip_prefix("msg=audit(")
            .and_then(|rest| rest.split_once(')'))
            .ok_or(RecordError::NoStamp)?;
        let (time, serial) = parse_stamp(stamp).ok_or(RecordError::NoStamp)?;
        let mut record = Self {
            record_type: cut(record_type),
            time,
            serial,
            node,
            fields: BTreeMap::new(),
            arguments: BTreeMap::new(),
            title: None,
        };
        record
            .fields
            .insert("type".to_owned(), record.record_type.clone());
        record.read_fields(rest.strip_prefix(':').unwrap_or(rest), false);
        record.enrich();
        Ok(record)
    }

    /// A field that is there and not `(null)`.
    pub fn field(&self, key: &str) -> Option<&str> {
        let value = self.fields.get(key).map(String::as_str)?;
        (value != "(null)" && value != "?").then_some(value)
    }

    /// A field as a decimal number.
    pub(super) fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.field(key)?.parse().ok()
    }

    /// An argument of a call, which the kernel writes in hexadecimal.
    pub(super) fn call_argument(&self, index: usize) -> Option<u64> {
        let key = ["a0", "a1", "a2", "a3"].get(index)?;
        u64::from_str_radix(self.field(key)?, 16).ok()
    }

    /// The record for eyes outside this room: secrets in command lines are masked.
    #[must_use]
    pub fn masked(mut self) -> Self {
        if !self.arguments.is_empty() {
            let keys: Vec<(usize, usize)> = self.arguments.keys().copied().collect();
            let mut args: Vec<String> = self.arguments.values().map(|bytes| lossy(bytes)).collect();
            // A long command line has several records, and the first argument of a later one is no program.
            let continues = keys.first().is_some_and(|(number, _)| *number > 0);
            if continues {
                args.insert(0, String::new());
            }
            mask_args(&mut args);
            let args = args.into_iter().skip(usize::from(continues));
            for ((number, part), arg) in keys.into_iter().zip(args) {
                let whole = format!("a{number}");
                let key = if self.fields.contains_key(&whole) && part == 0 {
                    whole
                } else {
                    format!("a{number}[{part}]")
                };
                self.fields.insert(key, arg);
            }
            self.arguments.clear();
        }
        if let Some(title) = self.title.take() {
            let mut args = value::arguments(&title);
            mask_args(&mut args);
            self.fields.insert("proctitle".to_owned(), args.join(" "));
        }
        for key in ["cmd", "data"] {
            if let Some(text) = self.fields.get_mut(key) {
                let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
                mask_args(&mut words);
                *text = mask_text(&words.join(" ")).into_owned();
            }
        }
        self
    }

    fn read_fields(&mut self, text: &str, nested: bool) {
        let mut rest = text;
        while let Some((key, value, after)) = next_field(rest) {
            rest = after;
            if self.fields.len() >= FIELDS_MAX {
                return;
            }
            match value {
                Value::Group(inner) if !nested => self.read_fields(inner, true),
                Value::Group(inner) | Value::Bare(inner) => self.read_bare(key, inner),
                Value::Quoted(inner) => self.read_bytes(key, inner.as_bytes()),
            }
        }
    }

    fn read_bare(&mut self, key: &str, text: &str) {
        match value::decode(&self.record_type, key, text) {
            Some(bytes) => self.read_bytes(key, &bytes),
            None => self.insert(key, text.to_owned()),
        }
    }

    fn read_bytes(&mut self, key: &str, bytes: &[u8]) {
        if self.record_type == "EXECVE"
            && let Some(place) = value::argument(key)
        {
            self.arguments.insert(place, bytes.to_vec());
        }
        if self.record_type == "PROCTITLE" && key == "proctitle" {
            self.title = Some(bytes.to_vec());
        }
        let text = lossy(bytes).replace('\0', " ");
        self.insert(key, text);
    }

    fn insert(&mut self, key: &str, value: String) {
        self.fields.entry(cut(key)).or_insert(value);
    }

    /// Adds what the ENRICHED format would have said.
    fn enrich(&mut self) {
        if self.record_type == "SYSCALL" {
            let arch = self.fields.get("arch").map_or("", String::as_str);
            let table = syscalls::Table::of(arch);
            let name = self.number("syscall").and_then(|number| table?.name(number));
            if let Some(name) = name {
                self.insert("SYSCALL", name.to_owned());
            }
            if let Some(name) = syscalls::architecture(self.fields.get("arch").map_or("", String::as_str)) {
                self.insert("ARCH", name.to_owned());
            }
        }
        if self.record_type == "SOCKADDR"
            && let Some(address) = self.fields.get("saddr").and_then(|saddr| value::hex(saddr))
        {
            for (key, value) in super::connections::address_fields(&address) {
                self.insert(key, value);
            }
        }
    }
}

enum Value<'a> {
    Quoted(&'a str),
    Group(&'a str),
    Bare(&'a str),
}

/// The next `key=value`, and what follows it. Words without `=` are passed over.
fn next_field(text: &str) -> Option<(&str, Value<'_>, &str)> {
    // Between the kernel's fields and auditd's own stands a group separator.
    let is_gap = |character: char| matches!(character, ' ' | '\u{1d}' | ',');
    let mut rest = text.trim_start_matches(is_gap);
    loop {
        let end = rest.find([' ', '=', '\u{1d}'])?;
        let (key, after) = rest.split_at(end);
        let Some(after) = after.strip_prefix('=') else {
            rest = after.trim_start_matches(is_gap);
            continue;
        };
        if let Some(inner) = after.strip_prefix('"')
            && let Some((value, after)) = inner.split_once('"')
        {
            return Some((key, Value::Quoted(value), after));
        }
        if let Some(inner) = after.strip_prefix('\'')
            && let Some((value, after)) = inner.rsplit_once('\'')
        {
            return Some((key, Value::Group(value), after));
        }
        let end = after.find([' ', '\u{1d}']).unwrap_or(after.len());
        let (value, after) = after.split_at(end);
        return Some((key, Value::Bare(value), after));
    }
}

/// `1364481363.243:24287`.
fn parse_stamp(stamp: &str) -> Option<(TimeMicros, u64)> {
    let (time, serial) = stamp.split_once(':')?;
    let (seconds, millis) = time.split_once('.')?;
    let (seconds, millis) = (seconds.parse::<i64>().ok()?, millis.parse::<i64>().ok()?);
    if !(0..1_000).contains(&millis) || seconds < 0 {
        return None;
    }
    let micros = seconds.checked_mul(1_000_000)?.checked_add(millis * 1_000)?;
    Some((TimeMicros(micros), serial.parse().ok()?))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn cut(name: &str) -> String {
    name.get(..name.floor_char_boundary(NAME_BYTES_MAX))
        .unwrap_or(name)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> AuditRecord {
        AuditRecord::parse(line.as_bytes()).unwrap()
    }

    #[test]
    fn call_is_named_by_the_table_of_its_architecture() {
        let of = |arch: &str, number: u32| {
            let record = parse(&format!(
                "type=SYSCALL msg=audit(1700000000.123:42): arch={arch} syscall={number} a0=0"
            ));
            let field = |key: &str| record.field(key).unwrap_or_default().to_owned();
            (field("SYSCALL"), field("ARCH"))
        };
        assert_eq!(of("c000003e", 59), ("execve".into(), "x86_64".into()));
        assert_eq!(of("c00000b7", 221), ("execve".into(), "aarch64".into()));
        assert_eq!(of("40000003", 11), ("execve".into(), "i386".into()));
        assert_eq!(
            of("40000028", 11),
            (String::new(), "arm".into()),
            "named, its calls are not"
        );
        assert_eq!(of("c000003e", 9_999), (String::new(), "x86_64".into()));
    }

    #[test]
    fn stamp_node_and_enriched_fields_are_read() {
        let record = parse(
            "node=web1 type=SYSCALL msg=audit(1700000000.007:42): arch=c000003e syscall=2 success=no exit=-13 \
             comm=\"cat\" exe=\"/usr/bin/cat\" key=(null)\u{1d}ARCH=x86_64 SYSCALL=open AUID=\"root\"",
        );
        assert_eq!((record.node.as_deref(), record.serial), (Some("web1"), 42));
        assert_eq!(record.time, TimeMicros(1_700_000_000_007_000));
        assert_eq!(record.field("SYSCALL"), Some("open"));
        assert_eq!((record.field("AUID"), record.field("key")), (Some("root"), None));
        assert_eq!(
            (record.field("exit"), record.number("exit")),
            (Some("-13"), Some(-13))
        );
    }

    #[test]
    fn fields_of_a_programs_record_stand_beside_the_kernels() {
        let record = parse(
            "type=USER_LOGIN msg=audit(1.000:2): pid=5 uid=0 auid=1000 ses=1 msg='op=login acct=\"root\" \
             exe=\"/usr/sbin/sshd\" hostname=? addr=192.0.2.1 terminal=ssh res=failed'",
        );
        assert_eq!(
            (record.field("acct"), record.field("res")),
            (Some("root"), Some("failed"))
        );
        assert_eq!((record.field("pid"), record.field("hostname")), (Some("5"), None));
    }

    #[test]
    fn hexadecimal_values_are_bytes_and_secrets_are_masked() {
        let record = parse("type=EXECVE msg=audit(1.000:2): argc=3 a0=\"mysql\" a1=\"-psecret\" a2=C3A9FF20");
        assert_eq!(record.field("a2"), Some("é\u{fffd} "));
        let masked = record.masked();
        assert_eq!(masked.field("a1"), Some("-p[masked]"));
        let later =
            parse("type=EXECVE msg=audit(1.000:2): a20=\"--password\" a21=\"secret\" a22=\"x\"").masked();
        assert_eq!(
            (later.field("a20"), later.field("a21"), later.field("a22")),
            (Some("--password"), Some("[masked]"), Some("x"))
        );
        let title = parse("type=PROCTITLE msg=audit(1.000:2): proctitle=6D7973716C002D7073656372657400");
        assert_eq!(
            title.clone().masked().field("proctitle"),
            Some("mysql -p[masked]")
        );
        assert_eq!(title.field("proctitle"), Some("mysql -psecret "));
        let sudo =
            parse("type=USER_CMD msg=audit(1.000:2): msg='cwd=\"/\" cmd=6D7973716C202D7073656372657420'")
                .masked();
        assert!(!sudo.field("cmd").unwrap().contains("secret"), "{sudo:?}");
    }

    #[test]
    fn line_that_is_cut_anywhere_is_refused_or_read_and_never_panics() {
        let line = "node=a type=EXECVE msg=audit(1700000000.123:42): argc=2 a0=\"l\u{e9}s\" a1[0]=2D6C msg='a=\"b\" c=d'".as_bytes();
        let stamped = line.iter().position(|byte| *byte == b')').unwrap();
        for end in 0..line.len() {
            // A stamp is needed, the rest is as much as there is.
            assert_eq!(AuditRecord::parse(&line[..end]).is_ok(), end > stamped, "{end}");
        }
        for wrong in [
            "",
            "type=",
            "type=X msg=audit(1:2): ",
            "type=X msg=audit(1.5000:2): ",
            "type=X msg=audit(a.b:c)",
        ] {
            assert!(AuditRecord::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
