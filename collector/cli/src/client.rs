//! Requests to the API, with whatever the user gave to log in.

use std::path::Path;
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::complain;
use crate::session::{self, Session};
use crate::tls;

const URL_DEFAULT: &str = "http://127.0.0.1:7780";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(70);
/// A login that has to wait longer is for a person to decide.
const LOGIN_WAIT_MAX_S: u64 = 10;
/// Hosts of a name are looked for in one list.
const NAME_MIN: usize = 1;

pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

impl Client {
    /// A client that has not logged in.
    pub(crate) fn new(url: Option<&str>, ca: Option<&Path>) -> Result<Self, Failure> {
        let kept = session::load();
        let url = url
            .map(str::to_owned)
            .or_else(|| kept.map(|kept| kept.url))
            .unwrap_or_else(|| URL_DEFAULT.to_owned());
        let parsed = url::Url::parse(&url)
            .map_err(|_| Failure::other(format!("FLEETMEND_URL {url:?} is not a URL")))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(Failure::other(format!(
                "FLEETMEND_URL {url:?} is neither http:// nor https://"
            )));
        }
        if parsed.scheme() == "http" && !is_loopback(&parsed) {
            return Err(Failure::other(format!(
                "FLEETMEND_URL {url:?} is plain HTTP to another machine, and whoever is on the way could read the password: \
                 use https:// (with FLEETMEND_CA, if its certificate is of your own authority), or open a tunnel with \
                 `ssh -L 7780:127.0.0.1:7780 HOST` and use {URL_DEFAULT}"
            )));
        }
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(ca)?)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("fleetmend-cli/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Failure::other(error.to_string()))?;
        Ok(Self {
            http,
            url: url.trim_end_matches('/').to_owned(),
            token: None,
        })
    }

    /// Logs in with what is at hand: a token, user and password, or the kept session.
    pub(crate) async fn authenticate(mut self) -> Result<Self, Failure> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(token) = variable("FLEETMEND_TOKEN") {
            self.token = Some(token);
        } else if let (Some(user), Some(password)) =
            (variable("FLEETMEND_USER"), variable("FLEETMEND_PASSWORD"))
        {
            self.token = match self.kept_of(&user).await? {
                Some(token) => Some(token),
                None => Some(self.login(&user, &password).await?.access_token),
            };
        } else if let Some(kept) = session::load().filter(|kept| kept.url == self.url) {
            self.token = Some(if kept.is_fresh() {
                kept.access_token
            } else {
                self.renew().await?.access_token
            });
        } else {
            return Err(not_logged_in());
        }
        Ok(self)
    }

    /// The token of the kept session, when it is this user's and the collector still takes it: logging in is
    /// throttled, and its password check is made to be slow.
    async fn kept_of(&self, user: &str) -> Result<Option<String>, Failure> {
        let ours = |kept: &Session| kept.url == self.url && kept.user == user;
        let Some(kept) = session::load().filter(ours) else {
            return Ok(None);
        };
        let token = if kept.is_fresh() {
            kept.access_token
        } else {
            match self.renew().await {
                Ok(session) if ours(&session) => session.access_token,
                // Somebody else logged in meanwhile, or the session is over.
                Ok(_) | Err(Failure::Denied(_)) => return Ok(None),
                Err(failure) => return Err(failure),
            }
        };
        let request = self.request(Method::GET, "me").bearer_auth(&token);
        match self.checked(request.timeout(ANSWER_TIMEOUT)).await {
            Ok(_) => Ok(Some(token)),
            Err(Failure::Denied(_)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The kept session, renewed, by this process or by another one that did so meanwhile: a refresh token holds
    /// once, and whoever spends it twice ends the session.
    async fn renew(&self) -> Result<Session, Failure> {
        let _lock = session::lock().await?;
        match session::load().filter(|kept| kept.url == self.url) {
            Some(kept) if kept.is_fresh() => Ok(kept),
            Some(kept) => self.refresh(&kept).await,
            None => Err(not_logged_in()),
        }
    }

    pub(crate) async fn login(&self, user: &str, password: &str) -> Result<Session, Failure> {
        let request = || {
            let body = json!({ "user": user, "password": password });
            let request = self.request(Method::POST, "login").json(&body);
            request.timeout(ANSWER_TIMEOUT).send()
        };
        let lost = |error| Failure::of_request(&self.url, &error);
        let mut answer = request().await.map_err(lost)?;
        if let Some(wait) = short_wait(&answer) {
            complain(&format!(
                "the collector asks to wait: logging in once more in {} s",
                wait.as_secs()
            ));
            tokio::time::sleep(wait).await;
            answer = request().await.map_err(lost)?;
        }
        self.session_of(&self.body(self.judged(answer).await?).await?)
    }

    async fn refresh(&self, kept: &Session) -> Result<Session, Failure> {
        let body = json!({ "refresh_token": kept.refresh_token });
        let session = self.session_of(&self.send(Method::POST, "refresh", &[], Some(body)).await?)?;
        session::save(&session)?;
        Ok(session)
    }

    fn session_of(&self, answer: &Value) -> Result<Session, Failure> {
        let text = |name: &str| {
            let found = answer.get(name).and_then(Value::as_str).map(str::to_owned);
            found.ok_or_else(|| {
                Failure::other(format!("{} is not a Fleetmend collector: no {name}", self.url))
            })
        };
        Ok(Session {
            url: self.url.clone(),
            user: text("user")?,
            access_token: text("access_token")?,
            expires_at: text("expires_at")?,
            refresh_token: text("refresh_token")?,
        })
    }

    pub(crate) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, Failure> {
        self.send(Method::GET, path, query, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Result<Value, Failure> {
        self.send(Method::POST, path, &[], Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Result<Value, Failure> {
        self.send(Method::PUT, path, &[], Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::DELETE, path, &[], None).await
    }

    /// Items of a list, over as many pages as it takes to have `limit` of them.
    pub(crate) async fn pages(
        &self,
        path: &str,
        query: &[(&str, String)],
        limit: usize,
    ) -> Result<Value, Failure> {
        let mut items: Vec<Value> = Vec::new();
        let mut cursor: Option<String> = None;
        while items.len() < limit {
            let mut query = query.to_vec();
            query.push(("limit", (limit - items.len()).clamp(1, 500).to_string()));
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let mut page = self.get(path, &query).await?;
            if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        Ok(json!({ "items": items, "next_cursor": cursor }))
    }

    /// Opens a stream of events.
    pub(crate) async fn stream(&self, path: &str, query: &[(&str, String)]) -> Result<Response, Failure> {
        let request = self
            .request(Method::GET, path)
            .query(query)
            .header("accept", "text/event-stream");
        self.checked(request).await
    }

    /// An answer that is no JSON, unread.
    pub(crate) async fn raw(&self, path: &str, query: &[(&str, String)]) -> Result<Response, Failure> {
        self.checked(self.request(Method::GET, path).query(query)).await
    }

    /// What broke while an answer was read.
    pub(crate) fn broken(&self, error: &reqwest::Error) -> Failure {
        Failure::of_request(&self.url, error)
    }

    /// The id of a host that was given by id or name.
    pub(crate) async fn host(&self, given: &str) -> Result<String, Failure> {
        if given.parse::<fleetmend_event::HostId>().is_ok() {
            return Ok(given.to_owned());
        }
        let list = self.get("hosts", &[]).await?;
        let text = |host: &Value, name: &str| {
            host.get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let fits = |host: &&Value| {
            text(host, "hostname") == given
                || given.len() >= NAME_MIN && text(host, "host_id").starts_with(given)
        };
        let found: Vec<&Value> = list
            .get("items")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter(fits)
            .collect();
        match found.as_slice() {
            [one] => Ok(text(one, "host_id")),
            [] => Err(Failure::Absent(format!(
                "no host has the name or id {given}; `fleetmend hosts` shows all, `fleetmend hosts --removed` those that were removed"
            ))),
            several => {
                let ids: Vec<String> = several.iter().map(|host| text(host, "host_id")).collect();
                Err(Failure::other(format!(
                    "{given} is more than one host: {}; give the id",
                    ids.join(", ")
                )))
            }
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}/api/v1/{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Value>,
    ) -> Result<Value, Failure> {
        let mut request = self.request(method, path).query(query).timeout(ANSWER_TIMEOUT);
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.body(self.checked(request).await?).await
    }

    async fn body(&self, answer: Response) -> Result<Value, Failure> {
        let bytes = answer
            .bytes()
            .await
            .map_err(|error| Failure::of_request(&self.url, &error))?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|_| {
            Failure::other(format!(
                "{} answered something other than JSON: is it a collector?",
                self.url
            ))
        })
    }

    async fn checked(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let answer = request
            .send()
            .await
            .map_err(|error| Failure::of_request(&self.url, &error))?;
        self.judged(answer).await
    }

    async fn judged(&self, answer: Response) -> Result<Response, Failure> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let bytes = answer.bytes().await.unwrap_or_default();
        Err(Failure::of_problem(
            &self.url,
            status.as_u16(),
            &serde_json::from_slice(&bytes).unwrap_or_default(),
        ))
    }
}

/// How long a refused login may wait to be tried again.
fn short_wait(answer: &Response) -> Option<Duration> {
    if answer.status() != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let seconds: u64 = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    (seconds <= LOGIN_WAIT_MAX_S).then(|| Duration::from_secs(seconds))
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn not_logged_in() -> Failure {
    let hint = "not logged in: run `fleetmend login`, or set FLEETMEND_TOKEN, or FLEETMEND_USER and FLEETMEND_PASSWORD";
    Failure::Denied(hint.to_owned())
}
