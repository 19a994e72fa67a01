//! Where facts are kept, by its address.

use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;
use url::Url;

/// What an address without a port means.
const PORT_TLS: u16 = 8443;
const PORT_PLAIN: u16 = 8123;
/// Names of databases and clusters stand in statements as they are.
const NAME_BYTES_MAX: usize = 64;

/// Where facts are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StoreUrl {
    /// In the store's folder.
    #[default]
    Embedded,
    /// In memory.
    Memory,
    /// In ClickHouse.
    ClickHouse(ClickHouseUrl),
}

/// Where a ClickHouse is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClickHouseUrl {
    /// Scheme, host and port of its HTTP interface.
    pub endpoint: Url,
    /// Database of the tables.
    pub database: String,
    /// Cluster whose servers share them, as the servers' configuration names it.
    pub cluster: Option<String>,
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "embedded" => return Ok(Self::Embedded),
            "memory" => return Ok(Self::Memory),
            _ => {}
        }
        let form = "must be embedded, memory, or clickhouse+https://host:8443/database?cluster=name";
        let plain = text
            .strip_prefix("clickhouse+")
            .ok_or_else(|| format!("is {text:?}; it {form}"))?;
        let url = Url::parse(plain).map_err(|error| format!("{form}: {error}"))?;
        clickhouse(url).map(Self::ClickHouse)
    }
}

fn clickhouse(url: Url) -> Result<ClickHouseUrl, String> {
    let host = url
        .host_str()
        .filter(|host| !host.is_empty())
        .ok_or("names no host")?;
    let is_here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    let port = match url.scheme() {
        "https" => PORT_TLS,
        "http" if is_here => PORT_PLAIN,
        "http" => {
            return Err("is plain HTTP to another host, and whoever is on the way could read the facts and the password: use clickhouse+https".to_owned());
        }
        other => {
            return Err(format!(
                "has the scheme clickhouse+{other}; it is clickhouse+https"
            ));
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "holds a user or a password; they are clickhouse.user and clickhouse.password_file".to_owned(),
        );
    }
    let mut cluster = None;
    for (name, value) in url.query_pairs() {
        match &*name {
            "cluster" => cluster = Some(word("cluster", &value)?),
            _ => return Err(format!("has the parameter {name:?}; only cluster is known")),
        }
    }
    let database = word("database", url.path().trim_matches('/'))?;
    let endpoint = format!("{}://{host}:{}/", url.scheme(), url.port().unwrap_or(port));
    let endpoint = Url::parse(&endpoint).map_err(|error| error.to_string())?;
    Ok(ClickHouseUrl {
        endpoint,
        database,
        cluster,
    })
}

fn word(what: &str, text: &str) -> Result<String, String> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts = text.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
    if starts && text.len() <= NAME_BYTES_MAX && text.bytes().all(is_word) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "has the {what} {text:?}; it is a word of at most {NAME_BYTES_MAX} letters, digits and underscores"
        ))
    }
}

/// How ClickHouse is spoken to.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClickHouseConfig {
    /// User.
    pub user: String,
    /// File with the user's password, which not everybody may read; none for a user without one.
    pub password_file: Option<PathBuf>,
    /// Certificates (PEM) of who may sign the server's certificate; the public authorities where it is not given.
    pub ca_file: Option<PathBuf>,
    /// How long an insert, or a statement that makes tables, may take.
    pub statement_timeout_ms: u64,
    /// How long commits are gathered for one insert: each insert makes a part of every table it touches, and
    /// servers merge some parts a second without effort.
    pub gather_ms: u64,
    /// Commits that are inserted together at most.
    pub gather_commits_max: usize,
    /// Whether inserts carry deduplication tokens, so that a server recognises one that is repeated before it merges.
    /// Nothing depends on them.
    pub insert_tokens: bool,
    /// How long a collector that is silent keeps its hosts before another one may store for them without their
    /// saying hello there.
    pub lease_s: u64,
    /// How often it is looked whether the engines are there, and for losses that other collectors stored.
    pub look_ms: u64,
}

impl Default for ClickHouseConfig {
    fn default() -> Self {
        Self {
            user: "default".to_owned(),
            password_file: None,
            ca_file: None,
            statement_timeout_ms: 8_000,
            gather_ms: 200,
            gather_commits_max: 512,
            insert_tokens: true,
            lease_s: 60,
            look_ms: 5_000,
        }
    }
}

impl ClickHouseConfig {
    /// Everything that is wrong with it, as key and reason.
    pub(crate) fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut within = |key: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                faults.push((format!("clickhouse.{key}"), format!("must be {least} to {most}")));
            }
        };
        within("statement_timeout_ms", self.statement_timeout_ms, 100, 300_000);
        within("gather_ms", self.gather_ms, 0, 10_000);
        within("gather_commits_max", self.gather_commits_max as u64, 1, 2_000);
        within("lease_s", self.lease_s, 5, 3_600);
        within("look_ms", self.look_ms, 10, 60_000);
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_understood_or_says_what_is_wrong() {
        let of = |text: &str| text.parse::<StoreUrl>();
        assert_eq!(of("embedded"), Ok(StoreUrl::Embedded));
        assert_eq!(of("memory"), Ok(StoreUrl::Memory));
        let Ok(StoreUrl::ClickHouse(url)) = of("clickhouse+https://facts.example/fleet?cluster=main") else {
            panic!("an address of ClickHouse");
        };
        assert_eq!(url.endpoint.as_str(), "https://facts.example:8443/");
        assert_eq!(
            (url.database.as_str(), url.cluster.as_deref()),
            ("fleet", Some("main"))
        );
        assert!(of("clickhouse+http://127.0.0.1:8123/fleet").is_ok());
        for (text, part) in [
            ("sqlite", "must be embedded"),
            ("clickhouse+http://facts.example/fleet", "clickhouse+https"),
            ("clickhouse+https://a:b@facts.example/fleet", "password_file"),
            ("clickhouse+https://facts.example/", "database"),
            ("clickhouse+https://facts.example/a-b", "letters"),
            ("clickhouse+https://facts.example/f?cluster=a'b", "letters"),
            ("clickhouse+https://facts.example/f?secure=1", "only cluster"),
            ("clickhouse+native://facts.example/f", "clickhouse+https"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
