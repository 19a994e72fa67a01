//! Which proxy, and who we are to it.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fleetmend_config::Secret;
use fleetmend_identity::{Address, IdentityError, credential};

use super::except::{EXCEPTIONS_MAX, Exceptions};

/// Port of a proxy whose URL names none: that of the scheme.
const PORT_DEFAULT: u16 = 80;
/// Longest name or password.
const WORD_BYTES_MAX: usize = 1024;

/// What is configured of a proxy.
#[derive(Debug, Clone, Default)]
pub struct ProxySettings {
    /// `http://[user@]host:port`.
    pub url: Option<String>,
    /// File with the password: an absolute path, or the name of a systemd credential.
    pub password_file: Option<PathBuf>,
    /// What is reached without it; see [`Exceptions`].
    pub except: Vec<String>,
    /// Whether `HTTPS_PROXY` and `NO_PROXY` count when there is no URL.
    pub from_environment: bool,
}

/// A setting of the proxy is wrong. The URL itself is never repeated: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No URL of an HTTP proxy.
    #[error(
        "must be http://user@host:port; the user may be left out, and an IPv6 address stands in brackets"
    )]
    Url,
    /// A scheme other than HTTP.
    #[error(
        "must begin with http:// (the way to the proxy is plain; what goes through it is TLS from end to end)"
    )]
    Scheme,
    /// The password stands in the configuration.
    #[error("must not hold a password: put it into a file of mode 0600 and name that as proxy_password_file")]
    PasswordInUrl,
    /// There is a password and nobody whose it is.
    #[error("names the password of nobody: put the user into proxy, http://user@host:port")]
    NobodysPassword,
    /// An exception is none.
    #[error("is neither a name, an IP address, a network, one of these with a port, nor \"*\"")]
    Exception {
        /// Its place in the list.
        place: usize,
    },
    /// What the environment says is wrong.
    #[error("the environment variable {variable} {reason}")]
    Environment {
        /// Which.
        variable: &'static str,
        /// Why.
        reason: Box<ProxyError>,
    },
    /// The file of the password has the wrong mode or cannot be read.
    #[error("read the proxy's password")]
    PasswordFile(#[source] IdentityError),
    /// The file holds no password.
    #[error("the file of the proxy's password holds none: one line of at most {WORD_BYTES_MAX} bytes")]
    NoPassword,
}

/// An HTTP proxy. [`fmt::Display`] is its address.
pub struct Proxy {
    address: Address,
    login: Option<Login>,
}

struct Login {
    user: String,
    password: Secret,
}

/// What a URL says.
struct Parts {
    address: Address,
    user: Option<String>,
    password: Option<Secret>,
}

impl Proxy {
    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether we say who we are.
    pub fn has_login(&self) -> bool {
        self.login.is_some()
    }

    /// The value of `Proxy-Authorization` (RFC 7617).
    pub(super) fn authorization(&self) -> Option<Secret> {
        let login = self.login.as_ref()?;
        let pair = format!("{}:{}", login.user, login.password.expose());
        Some(Secret::new(format!("Basic {}", STANDARD.encode(pair))))
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(formatter)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = if self.has_login() {
            "with a login"
        } else {
            "without a login"
        };
        write!(formatter, "Proxy({}, {login})", self.address)
    }
}

impl ProxySettings {
    /// Every fault that can be seen without reading another file: the key and what is wrong.
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let parts = self.url.as_deref().map(Parts::parse);
        match &parts {
            Some(Err(error)) => faults.push(("proxy".to_owned(), error.to_string())),
            Some(Ok(parts)) if parts.password.is_some() => {
                faults.push(("proxy".to_owned(), ProxyError::PasswordInUrl.to_string()));
            }
            _ => {}
        }
        if let Some(file) = &self.password_file {
            let has_user = matches!(&parts, Some(Ok(parts)) if parts.user.is_some());
            if !has_user && !matches!(parts, Some(Err(_))) {
                faults.push((
                    "proxy_password_file".to_owned(),
                    ProxyError::NobodysPassword.to_string(),
                ));
            }
            if !file.is_absolute() && !is_plain(file) {
                let message = "must be an absolute path, or the plain name of a systemd credential";
                faults.push(("proxy_password_file".to_owned(), message.to_owned()));
            }
        }
        if let Err(place) = Exceptions::parse(&self.except) {
            let message = if self.except.len() > EXCEPTIONS_MAX {
                format!("must have at most {EXCEPTIONS_MAX} entries")
            } else {
                ProxyError::Exception { place }.to_string()
            };
            faults.push((format!("no_proxy[{place}]"), message));
        }
        faults
    }

    /// The proxy, and what is reached without it.
    pub(super) fn open(&self) -> Result<(Option<Proxy>, Exceptions), ProxyError> {
        self.open_with(|name| std::env::var(name).ok())
    }

    fn open_with(
        &self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<(Option<Proxy>, Exceptions), ProxyError> {
        let mut except = Exceptions::parse(&self.except).map_err(|place| ProxyError::Exception { place })?;
        if let Some(url) = &self.url {
            let parts = Parts::parse(url)?;
            if parts.password.is_some() {
                return Err(ProxyError::PasswordInUrl);
            }
            let password = self.password_file.as_deref().map(read_password).transpose()?;
            let proxy = Proxy {
                address: parts.address,
                login: login(parts.user, password)?,
            };
            return Ok((Some(proxy), except));
        }
        if !self.from_environment {
            return Ok((None, except));
        }
        let named = [("HTTPS_PROXY", "https_proxy"), ("ALL_PROXY", "all_proxy")];
        let found = named.into_iter().find_map(|(name, small)| {
            let value = variable(name).or_else(|| variable(small))?;
            Some((name, value)).filter(|(_, value)| !value.trim().is_empty())
        });
        let Some((name, url)) = found else {
            return Ok((None, except));
        };
        let wrong = |variable| {
            move |reason| ProxyError::Environment {
                variable,
                reason: Box::new(reason),
            }
        };
        let parts = Parts::parse(url.trim()).map_err(wrong(name))?;
        if let Some(list) = variable("NO_PROXY").or_else(|| variable("no_proxy")) {
            let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
            let entries: Vec<String> = entries
                .map(str::to_owned)
                .chain(self.except.iter().cloned())
                .collect();
            except = Exceptions::parse(&entries)
                .map_err(|place| wrong("NO_PROXY")(ProxyError::Exception { place }))?;
        }
        let proxy = Proxy {
            address: parts.address,
            login: login(parts.user, parts.password)?,
        };
        Ok((Some(proxy), except))
    }
}

fn login(user: Option<String>, password: Option<Secret>) -> Result<Option<Login>, ProxyError> {
    match (user, password) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(ProxyError::NobodysPassword),
        (Some(user), password) => Ok(Some(Login {
            user,
            password: password.unwrap_or_default(),
        })),
    }
}

impl Parts {
    fn parse(url: &str) -> Result<Self, ProxyError> {
        let (scheme, rest) = url.split_once("://").ok_or(ProxyError::Url)?;
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(ProxyError::Scheme);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, place) = rest
            .rsplit_once('@')
            .map_or((None, rest), |(login, place)| (Some(login), place));
        let address = place
            .parse::<Address>()
            .or_else(|_| format!("{place}:{PORT_DEFAULT}").parse())
            .map_err(|_| ProxyError::Url)?;
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            None => (None, None),
            Some((user, password)) => (Some(word(user)?), Some(word(password)?)),
        };
        // RFC 7617: a name with a colon could not be told from its password.
        if user
            .as_ref()
            .is_some_and(|user| user.is_empty() || user.contains(':'))
        {
            return Err(ProxyError::Url);
        }
        Ok(Self {
            address,
            user,
            password: password.filter(|password| !password.is_empty()).map(Secret::new),
        })
    }
}

/// A name or password with its percent encoding undone.
fn word(text: &str) -> Result<String, ProxyError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next()), digit(rest.next()));
        let (Some(high), Some(low)) = (high, low) else {
            return Err(ProxyError::Url);
        };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| ProxyError::Url)?);
    }
    let word = String::from_utf8(bytes).map_err(|_| ProxyError::Url)?;
    if word.len() > WORD_BYTES_MAX || word.chars().any(char::is_control) {
        return Err(ProxyError::Url);
    }
    Ok(word)
}

/// Whether it is a plain file name, as that of a systemd credential.
fn is_plain(file: &Path) -> bool {
    let plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    file.to_str().is_some_and(plain)
}

fn read_password(file: &Path) -> Result<Secret, ProxyError> {
    let bytes = credential::read_secret(file).map_err(ProxyError::PasswordFile)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| ProxyError::NoPassword)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() || text.len() > WORD_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(ProxyError::NoPassword);
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn settings(url: &str) -> ProxySettings {
        ProxySettings {
            url: Some(url.to_owned()),
            ..ProxySettings::default()
        }
    }

    #[test]
    fn a_password_comes_from_its_file_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "pass:word%41\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut settings = settings("http://me%40here@[::1]:3128");
        settings.password_file = Some(file.clone());
        assert_eq!(settings.faults(), []);
        let (proxy, _) = settings.open().unwrap();
        let proxy = proxy.unwrap();
        assert_eq!(proxy.to_string(), "[::1]:3128");
        let shown = format!("{proxy:?} {proxy} {settings:?}");
        assert!(!shown.contains("pass:word"), "{shown}");
        let header = proxy.authorization().unwrap();
        let pair = header.expose().strip_prefix("Basic ").unwrap();
        assert_eq!(STANDARD.decode(pair).unwrap(), b"me@here:pass:word%41");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(settings.open(), Err(ProxyError::PasswordFile(_))));
    }

    #[test]
    fn nonsense_is_told_and_no_password_repeated() {
        for (url, part) in [
            ("http://user:secret@proxy:1", "must not hold a password"),
            ("https://proxy:1", "must begin with http://"),
            ("socks5://proxy:1", "must begin with http://"),
            ("proxy:1", "must be http://"),
            ("http://", "must be http://"),
            ("http://proxy:99999", "must be http://"),
            ("http://::1:3128", "must be http://"),
            ("http://@proxy:1", "must be http://"),
            ("http://a%zz@proxy:1", "must be http://"),
            ("http://proxy:1/path", "must be http://"),
        ] {
            let faults = settings(url).faults();
            assert_eq!(faults.len(), 1, "{url}: {faults:?}");
            assert!(
                faults[0].1.contains(part) && !faults[0].1.contains("secret"),
                "{url}: {faults:?}"
            );
            assert!(settings(url).open().is_err(), "{url}");
        }
        let mut nobodys = settings("http://proxy:1");
        nobodys.password_file = Some("../there".into());
        nobodys.except = vec!["ok".to_owned(), "10.0.0.0/99".to_owned()];
        let keys: Vec<String> = nobodys.faults().into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            keys,
            ["proxy_password_file", "proxy_password_file", "no_proxy[1]"]
        );
    }

    #[test]
    fn the_environment_counts_only_when_it_is_configured() {
        let variables = |name: &str| match name {
            "https_proxy" => Some("http://user:secret@proxy.example".to_owned()),
            "NO_PROXY" => Some("localhost, .corp.example".to_owned()),
            _ => None,
        };
        let settings = ProxySettings::default();
        assert!(settings.open_with(variables).unwrap().0.is_none());
        let settings = ProxySettings {
            from_environment: true,
            except: vec!["10.0.0.0/8".to_owned()],
            ..settings
        };
        let (proxy, except) = settings.open_with(variables).unwrap();
        let proxy = proxy.unwrap();
        assert_eq!(
            (proxy.to_string().as_str(), proxy.has_login()),
            ("proxy.example:80", true)
        );
        for covered in ["localhost:1", "a.corp.example:1", "10.1.1.1:1"] {
            assert!(except.covers(&covered.parse().unwrap()), "{covered}");
        }
        assert!(settings.open_with(|_| None).unwrap().0.is_none());
        let wrong = |name: &str| (name == "HTTPS_PROXY").then(|| "ftp://user:secret@x:1".to_owned());
        let error = settings.open_with(wrong).unwrap_err().to_string();
        assert!(
            error.contains("HTTPS_PROXY") && !error.contains("secret"),
            "{error}"
        );
    }
}
