//! Where the control database is.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use fleetmend_config::{Faults, HumanDuration, Validate};
use serde::Deserialize;
use url::Url;

use crate::UrlError;

/// PostgreSQL's port.
const PORT: u16 = 5432;

/// The control database.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlConfig {
    /// `postgres://user@host:port/database`, or `sqlite:///absolute/path`; nothing for the file in `state_dir`.
    pub url: Option<String>,
    /// File with the password of PostgreSQL, readable by the collector alone.
    pub password_file: Option<PathBuf>,
    /// Certificates (PEM) of who may sign PostgreSQL's certificate; needed for any host but this one.
    pub ca_file: Option<PathBuf>,
    /// Connections at most.
    pub connections_max: u32,
    /// How long a statement may take, the wait for a connection not counted.
    pub statement_timeout: HumanDuration,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            url: None,
            password_file: None,
            ca_file: None,
            connections_max: 8,
            statement_timeout: HumanDuration::from(Duration::from_secs(10)),
        }
    }
}

impl ControlConfig {
    /// Of this address, the rest by default.
    pub fn of(url: impl Into<String>) -> Self {
        Self {
            url: Some(url.into()),
            ..Self::default()
        }
    }

    /// The address, by default the SQLite file `default`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn address(&self, default: &Path) -> Result<ControlUrl, UrlError> {
        match &self.url {
            None => Ok(ControlUrl::Sqlite(default.to_owned())),
            Some(text) => text.parse(),
        }
    }

    /// The same settings for another address: what is only for a server is left out of a file's.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn at(&self, url: &str) -> Result<Self, String> {
        let address: ControlUrl = url
            .parse()
            .map_err(|error: UrlError| format!("the address {error}"))?;
        let mut config = Self {
            url: Some(url.to_owned()),
            ..self.clone()
        };
        match &address {
            ControlUrl::Sqlite(path) if path.is_absolute() => {
                config.password_file = None;
                config.ca_file = None;
            }
            ControlUrl::Sqlite(_) => return Err("the address needs an absolute path".to_owned()),
            ControlUrl::Postgres(postgres) if config.is_guarded(postgres) => {}
            ControlUrl::Postgres(_) => return Err(format!("a file of authorities (ca_file) {UNGUARDED}")),
        }
        Ok(config)
    }

    /// Whether it is made sure that the server is the right one, or need not be.
    fn is_guarded(&self, postgres: &PostgresUrl) -> bool {
        self.ca_file.is_some() || postgres.is_local() || postgres.tls == Some(Tls::Disable)
    }
}

/// What to say of a server that is not made sure of.
const UNGUARDED: &str = "is needed to know that the PostgreSQL of another host is the right one \
     (or sslmode=disable in the url, when the network between is trusted)";

impl Validate for ControlConfig {
    fn validate(&self, faults: &mut Faults<'_>) {
        faults.require(
            (2..=200).contains(&self.connections_max),
            "connections_max",
            "must be 2 to 200",
        );
        let timeout = self.statement_timeout.get();
        faults.require(
            (Duration::from_millis(100)..=Duration::from_secs(300)).contains(&timeout),
            "statement_timeout",
            "must be 100 ms to 5 min",
        );
        match self.address(Path::new("/")) {
            Err(error) => faults.add("url", error.to_string()),
            Ok(ControlUrl::Sqlite(path)) => {
                let is_default = self.url.is_none();
                faults.require(is_default || path.is_absolute(), "url", "needs an absolute path");
                let unused = "is for PostgreSQL only; control.url names none";
                faults.require(self.password_file.is_none(), "password_file", unused);
                faults.require(self.ca_file.is_none(), "ca_file", unused);
            }
            Ok(ControlUrl::Postgres(postgres)) => {
                faults.require(self.is_guarded(&postgres), "ca_file", UNGUARDED);
            }
        }
    }
}

/// An address that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlUrl {
    /// A file of this host.
    Sqlite(PathBuf),
    /// A server.
    Postgres(PostgresUrl),
}

/// Where a PostgreSQL is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    /// Name, address, or folder of the socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Database.
    pub database: String,
    /// What `sslmode` says.
    pub tls: Option<Tls>,
}

/// How the server is made sure of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Not at all.
    Disable,
    /// By who signed its certificate.
    VerifyAuthority,
    /// By that, and by its name.
    VerifyFull,
}

impl PostgresUrl {
    /// Whether nothing crosses a network.
    pub fn is_local(&self) -> bool {
        self.host.starts_with('/') || matches!(self.host.as_str(), "localhost" | "127.0.0.1" | "::1")
    }
}

impl FromStr for ControlUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let url = Url::parse(text).map_err(|error| UrlError::Form(error.to_string()))?;
        match url.scheme() {
            "sqlite" => {
                if !url.host_str().unwrap_or_default().is_empty() {
                    return Err(UrlError::Form("the path has to begin with a slash".to_owned()));
                }
                if let Some((name, _)) = url.query_pairs().next() {
                    return Err(UrlError::Parameter(name.into_owned()));
                }
                Ok(Self::Sqlite(PathBuf::from(decoded(url.path())?)))
            }
            "postgres" | "postgresql" => postgres(&url).map(Self::Postgres),
            other => Err(UrlError::Engine(other.to_owned())),
        }
    }
}

fn postgres(url: &Url) -> Result<PostgresUrl, UrlError> {
    if url.password().is_some() {
        return Err(UrlError::Password);
    }
    let mut tls = None;
    for (name, value) in url.query_pairs() {
        tls = Some(match (&*name, &*value) {
            ("sslmode", "disable") => Tls::Disable,
            ("sslmode", "verify-ca") => Tls::VerifyAuthority,
            ("sslmode", "verify-full") => Tls::VerifyFull,
            _ => return Err(UrlError::Parameter(format!("{name}={value}"))),
        });
    }
    let wanted = |text: String, what| {
        if text.is_empty() {
            Err(UrlError::Missing(what))
        } else {
            Ok(text)
        }
    };
    let host = decoded(url.host_str().unwrap_or_default())?;
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(PostgresUrl {
        host: wanted(bare, "host")?,
        port: url.port().unwrap_or(PORT),
        user: wanted(decoded(url.username())?, "user")?,
        database: wanted(decoded(url.path().trim_start_matches('/'))?, "database")?,
        tls,
    })
}

/// Without the percent signs: a socket's folder stands as `%2Frun%2Fpostgresql`.
fn decoded(text: &str) -> Result<String, UrlError> {
    let wrong = || UrlError::Form("it has a broken percent sign".to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let pair = digit().zip(digit()).ok_or_else(wrong)?;
        bytes.push(u8::try_from(pair.0 * 16 + pair.1).map_err(|_| wrong())?);
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

impl std::fmt::Display for ControlUrl {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => write!(formatter, "sqlite://{}", path.display()),
            Self::Postgres(PostgresUrl {
                host,
                port,
                user,
                database,
                ..
            }) => {
                write!(formatter, "postgres://{user}@{host}:{port}/{database}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_understood_or_says_what_is_wrong() {
        let of = |text: &str| text.parse::<ControlUrl>();
        assert_eq!(
            of("sqlite:///var/lib/a%20b"),
            Ok(ControlUrl::Sqlite("/var/lib/a b".into()))
        );
        let ControlUrl::Postgres(url) =
            of("postgres://fleetmend@db.example:5433/control?sslmode=verify-ca").unwrap()
        else {
            panic!("an address of PostgreSQL");
        };
        assert_eq!(
            (url.host.as_str(), url.port, url.tls),
            ("db.example", 5433, Some(Tls::VerifyAuthority))
        );
        assert!(!url.is_local());
        let ControlUrl::Postgres(socket) = of("postgres://fleetmend@%2Frun%2Fpostgresql/control").unwrap()
        else {
            panic!("an address of PostgreSQL");
        };
        assert_eq!((socket.host.as_str(), socket.port), ("/run/postgresql", PORT));
        assert!(socket.is_local());
        assert_eq!(of("postgres://a:secret@h/d"), Err(UrlError::Password));
        assert_eq!(of("postgres://h/d"), Err(UrlError::Missing("user")));
        assert_eq!(of("postgres://a@h"), Err(UrlError::Missing("database")));
        assert_eq!(of("mysql://a@h/d"), Err(UrlError::Engine("mysql".to_owned())));
        assert!(matches!(
            of("postgres://a@h/d?sslmode=prefer"),
            Err(UrlError::Parameter(_))
        ));
        assert!(matches!(of("sqlite://relative"), Err(UrlError::Form(_))));
        assert!(matches!(of("control.sqlite"), Err(UrlError::Form(_))));
    }

    #[test]
    fn settings_are_taken_to_another_address_as_far_as_they_fit() {
        let mut config = ControlConfig::of("postgres://a@127.0.0.1/d");
        config.password_file = Some("/etc/password".into());
        let file = config.at("sqlite:///var/lib/control").unwrap();
        assert_eq!((file.password_file, file.ca_file), (None, None));
        assert!(
            config
                .at("postgres://a@127.0.0.1/other")
                .unwrap()
                .password_file
                .is_some()
        );
        assert!(config.at("postgres://a@db/d").unwrap_err().contains("ca_file"));
        assert!(config.at("postgres://a:b@db/d").unwrap_err().contains("password"));
        config.ca_file = Some("/etc/ca.pem".into());
        assert!(config.at("postgres://a@db/d").is_ok());
    }

    #[test]
    fn a_faraway_server_has_to_be_made_sure_of() {
        let faults = |text: &str| {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("control.toml");
            std::fs::write(&file, text).unwrap();
            match fleetmend_config::load::<ControlConfig>(Some(&file), None, "NO_SUCH_PREFIX") {
                Ok(_) => String::new(),
                Err(faults) => faults.to_string(),
            }
        };
        assert_eq!(faults("url = 'postgres://a@127.0.0.1/d'"), "");
        assert!(faults("url = 'postgres://a@db/d'").contains("ca_file"));
        assert_eq!(faults("url = 'postgres://a@db/d?sslmode=disable'"), "");
        assert_eq!(faults("url = 'postgres://a@db/d'\nca_file = '/etc/ca.pem'"), "");
        assert!(faults("ca_file = '/etc/ca.pem'").contains("PostgreSQL only"));
        assert!(faults("url = 'postgres://a:b@db/d'").contains("password_file"));
    }
}
