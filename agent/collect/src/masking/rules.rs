//! The tables of what is secret.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use regex::Regex;

/// Parts of a name that say its value is a secret. Compared in lower case, with `-` for `_`.
const SECRET_PARTS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "api-key",
    "apikey",
    "access-key",
    "accesskey",
    "account-key",
    "auth-key",
    "encryption-key",
    "credential",
    "bearer",
    "pwd",
];

/// Ends of names that only say where the secret is, or that are something else altogether.
const HARMLESS_ENDS: &[&str] = &[
    "-file", "-path", "-dir", "-fd", "-stdin", "-env", "-tokens", "-id", "-name", "-length",
];

/// Names that are something else altogether.
const HARMLESS: &[&str] = &[
    "pwd",
    "oldpwd",
    "tokenizer",
    "tokens",
    "max-tokens",
    "password-store",
];

/// Whether the value of an option or a variable of this name is a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    if HARMLESS.contains(&name.as_str()) || name.starts_with("no-") {
        return false;
    }
    if HARMLESS_ENDS.iter().any(|end| name.ends_with(end)) {
        return false;
    }
    SECRET_PARTS.iter().any(|part| name.contains(part))
}

/// What of a value is secret.
#[derive(Debug, Clone, Copy)]
pub(super) enum ArgumentShape {
    /// All of it.
    Whole,
    /// What follows the first such character, as in `user:password`.
    After(char),
}

/// An option that is secret for some programs.
pub(super) struct ArgumentRule {
    pub(super) programs: &'static [&'static str],
    pub(super) option: &'static str,
    /// The value may be part of the same argument.
    pub(super) joined: bool,
    /// The value may be the next argument.
    pub(super) separate: bool,
    pub(super) shape: ArgumentShape,
}

const MYSQL: &[&str] = &[
    "mysql",
    "mysqladmin",
    "mysqlbinlog",
    "mysqlcheck",
    "mysqldump",
    "mysqlimport",
    "mysqlpump",
    "mysqlshow",
    "mysqlslap",
    "mycli",
    "mariadb",
    "mariadb-admin",
    "mariadb-backup",
    "mariadb-check",
    "mariadb-dump",
    "mariadb-import",
    "xtrabackup",
];
const LDAP: &[&str] = &[
    "ldapsearch",
    "ldapadd",
    "ldapmodify",
    "ldapdelete",
    "ldapwhoami",
    "ldappasswd",
    "ldapcompare",
];
const MONGO: &[&str] = &[
    "mongo",
    "mongosh",
    "mongodump",
    "mongorestore",
    "mongoexport",
    "mongoimport",
];

const fn rule(
    programs: &'static [&'static str],
    option: &'static str,
    joined: bool,
    separate: bool,
) -> ArgumentRule {
    ArgumentRule {
        programs,
        option,
        joined,
        separate,
        shape: ArgumentShape::Whole,
    }
}

const fn user_rule(programs: &'static [&'static str], option: &'static str, separator: char) -> ArgumentRule {
    ArgumentRule {
        programs,
        option,
        joined: true,
        separate: true,
        shape: ArgumentShape::After(separator),
    }
}

pub(super) const ARGUMENT_RULES: &[ArgumentRule] = &[
    rule(MYSQL, "-p", true, false),
    rule(MONGO, "-p", true, true),
    rule(LDAP, "-w", true, true),
    rule(&["sshpass"], "-p", true, true),
    rule(&["redis-cli", "valkey-cli", "keydb-cli"], "-a", false, true),
    rule(&["redis-cli", "valkey-cli", "keydb-cli"], "--pass", false, true),
    rule(
        &["docker", "podman", "helm", "nerdctl", "skopeo", "buildah"],
        "-p",
        false,
        true,
    ),
    rule(&["sqlcmd", "bcp"], "-P", true, true),
    rule(&["zip", "unzip"], "-P", true, true),
    rule(&["7z", "7za", "7zr", "rar", "unrar"], "-p", true, false),
    rule(&["xfreerdp", "rdesktop"], "-p", true, true),
    rule(&["lftp"], "-p", true, true),
    rule(&["openssl"], "-k", false, true),
    rule(&["openssl"], "-K", false, true),
    rule(
        &["snmpget", "snmpwalk", "snmpbulkwalk", "snmpset"],
        "-A",
        true,
        true,
    ),
    rule(
        &["snmpget", "snmpwalk", "snmpbulkwalk", "snmpset"],
        "-X",
        true,
        true,
    ),
    rule(
        &["snmpget", "snmpwalk", "snmpbulkwalk", "snmpset"],
        "-c",
        true,
        true,
    ),
    rule(&["ipmitool"], "-P", true, true),
    user_rule(&["curl"], "-u", ':'),
    user_rule(&["curl"], "--user", ':'),
    user_rule(&["curl"], "--proxy-user", ':'),
    user_rule(&["curl"], "-U", ':'),
    user_rule(&["http", "https", "xh"], "-a", ':'),
    user_rule(&["http", "https", "xh"], "--auth", ':'),
    user_rule(&["lftp"], "-u", ','),
    user_rule(&["smbclient", "rpcclient", "net", "smbget"], "-U", '%'),
    user_rule(&["smbclient", "rpcclient", "net", "smbget"], "--user", '%'),
];

/// A pattern and what stands for a match.
pub(super) struct TextRule {
    pub(super) pattern: Regex,
    pub(super) replacement: &'static str,
}

/// The patterns that find a secret by its looks.
pub(super) struct TextRules {
    /// Finds text that may match at all: most command lines end here, at a tenth of the patterns' cost.
    pub(super) hints: AhoCorasick,
    pub(super) each: Vec<TextRule>,
}

/// Pattern and replacement. Each replacement is matched again to itself, or not at all.
const TEXT_PATTERNS: &[(&str, &str)] = &[
    // Header with credentials, up to the end of its quotes or line.
    (
        r#"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-[a-z-]*(?:token|key|secret|auth))(["']?[ \t]*:[ \t]*)(?:(bearer|basic|digest|token|negotiate)[ \t]+)?[^"'\r\n \t][^"'\r\n]*"#,
        "$1$2[masked]",
    ),
    (r#"(?i)\bbearer[ \t]+[a-z0-9._~+/=-]{8,}"#, "Bearer [masked]"),
    // Credentials of a URL.
    (
        r#"([A-Za-z][A-Za-z0-9+.-]*://[^\s/:@"']*:)[^\s/"']+@"#,
        "$1[masked]@",
    ),
    // An assignment inside longer text: shell, JSON, query strings, connection strings.
    (
        r#"(?i)([a-z0-9_.-]*(?:passwo?r?d|passphrase|secret|token|api[_-]?key|access[_-]?key|account[_-]?key|credentials?|mysql_pwd)(?:[_-]?(?:key|value|hash|[0-9]+))?["']?[ \t]*(?:=|:[ \t]?)[ \t]*)(?:"[^"]+"|'[^']+'|[^\s"'&;,}]+)"#,
        "$1[masked]",
    ),
    // A long option inside longer text, its value after a space.
    (
        r#"(?i)([ \t"']--[a-z0-9_-]*(?:password|passwd|passphrase|secret|token|api-?key|access-?key)[ \t]+)(?:"[^"]+"|'[^']+'|[^\s"'-][^\s"']*)"#,
        "$1[masked]",
    ),
    (
        r#"(\b(?:mysql|mysqldump|mysqladmin|mariadb|mariadb-dump|mariadb-admin)[ \t](?:[^|;&]*[ \t])?-p)[^\s"'|;&]+"#,
        "$1[masked]",
    ),
    (
        r#"(\bsshpass[ \t]+-p[ \t]*)(?:"[^"]+"|'[^']+'|[^\s"']+)"#,
        "$1[masked]",
    ),
    (
        r#"(\bcurl[ \t](?:[^|;&]*[ \t])?(?:-u|--user)[ \t]*["']?[^\s"':]*:)[^\s"']+"#,
        "$1[masked]",
    ),
    (r#"(\bpass:)[^\s"']+"#, "$1[masked]"),
    // Formats of well-known issuers.
    (r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b", "[masked]"),
    (
        r"\b(?:gh[opsur]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,})",
        "[masked]",
    ),
    (r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}", "[masked]"),
    (r"\bAIza[A-Za-z0-9_-]{30,}", "[masked]"),
    (r"\bsk[-_](?:[a-z]+[-_])?[A-Za-z0-9_-]{20,}", "[masked]"),
    (
        r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?",
        "[masked]",
    ),
    (r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*", "[masked]"),
];

/// Each pattern matches only text that holds one of these, whatever the case.
const TEXT_HINTS: &[&str] = &[
    "pass",
    "secret",
    "token",
    "key",
    "auth",
    "cookie",
    "bearer",
    "credential",
    "://",
    "mysql",
    "mariadb",
    "curl",
    "akia",
    "asia",
    "gho_",
    "ghp_",
    "ghs_",
    "ghu_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xox",
    "aiza",
    "sk-",
    "sk_",
    "eyj",
];

/// The compiled patterns.
#[expect(
    clippy::expect_used,
    reason = "the patterns are constants, and every test of this room compiles them"
)]
pub(super) fn text_rules() -> &'static TextRules {
    static RULES: LazyLock<TextRules> = LazyLock::new(|| TextRules {
        hints: AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .build(TEXT_HINTS)
            .expect("constant words"),
        each: TEXT_PATTERNS
            .iter()
            .map(|(pattern, replacement)| TextRule {
                pattern: Regex::new(pattern).expect("constant pattern"),
                replacement,
            })
            .collect(),
    });
    &RULES
}
