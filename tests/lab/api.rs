//! The running instance, as a user sees it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A running instance with a login.
pub(crate) struct Instance {
    url: String,
    client: reqwest::Client,
    login: Value,
    /// Of a quarter of an hour: a lab may last longer.
    token: tokio::sync::Mutex<String>,
    /// What `up` wrote about itself.
    pub(crate) record: Value,
}

impl Instance {
    /// Reads `up.json` in `state` and logs in.
    pub(crate) async fn connect(state: &Path) -> Result<Self> {
        let path = state.join("up.json");
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "read {}: start the instance first with cargo xtask up",
                path.display()
            )
        })?;
        let record: Value =
            serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        let field = |key: &str| {
            record
                .get(key)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .with_context(|| format!("find {key} in up.json"))
        };
        let (url, login_file) = (field("api_url")?, field("login_file")?);
        let login: Value = serde_json::from_str(
            &std::fs::read_to_string(&login_file).with_context(|| format!("read {login_file}"))?,
        )
        .context("parse the login")?;
        // The client wants a provider even where it speaks plain HTTP to loopback.
        rustls::crypto::aws_lc_rs::default_provider()
            .install_default()
            .ok();
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(20))
            .build()
            .context("make an HTTP client")?;
        let token = log_in(&client, &url, &login).await?;
        Ok(Self {
            url,
            client,
            login,
            token: token.into(),
            record,
        })
    }

    /// A text of `up.json`.
    pub(crate) fn text(&self, key: &str) -> Result<String> {
        self.record
            .get(key)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .with_context(|| format!("find {key} in up.json"))
    }

    /// A process id of `up.json`.
    pub(crate) fn pid(&self, name: &str) -> Result<i32> {
        let pid = self
            .record
            .pointer(&format!("/pids/{name}"))
            .and_then(Value::as_i64);
        pid.and_then(|pid| i32::try_from(pid).ok())
            .with_context(|| format!("find the {name}'s process id in up.json"))
    }

    /// Rows of a query, each an object.
    pub(crate) async fn sql(&self, query: &str) -> Result<Vec<Value>> {
        let mut answer = self.post_sql(query).await?;
        if answer.status() == reqwest::StatusCode::UNAUTHORIZED {
            let fresh = log_in(&self.client, &self.url, &self.login).await?;
            *self.token.lock().await = fresh;
            answer = self.post_sql(query).await?;
        }
        let answer: Value = answer.json().await.context("read the query's answer")?;
        let (Some(columns), Some(rows)) = (
            answer.get("columns").and_then(Value::as_array),
            answer.get("rows").and_then(Value::as_array),
        ) else {
            let said = answer.get("detail").and_then(Value::as_str);
            bail!("the query was refused: {}", said.unwrap_or("without a reason"));
        };
        let names: Vec<&str> = columns
            .iter()
            .filter_map(|column| column.get("name")?.as_str())
            .collect();
        let object = |row: &Value| {
            let values = row.as_array().into_iter().flatten().cloned();
            names
                .iter()
                .map(|name| (*name).to_owned())
                .zip(values)
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        Ok(rows.iter().map(object).collect())
    }

    async fn post_sql(&self, query: &str) -> Result<reqwest::Response> {
        let token = self.token.lock().await.clone();
        let request = self.client.post(format!("{}/api/v1/sql", self.url));
        request
            .bearer_auth(token)
            .json(&json!({"query": query}))
            .send()
            .await
            .context("send the query")
    }

    /// Asks `query` until it has a row, or until `within` is over.
    pub(crate) async fn wait_for_row(&self, query: &str, within: Duration) -> Result<Option<Value>> {
        let begun = Instant::now();
        loop {
            if let Some(row) = self.sql(query).await?.into_iter().next() {
                return Ok(Some(row));
            }
            if begun.elapsed() > within {
                return Ok(None);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Alerts that the demonstration's receiver took since `since` (seconds since 1970) and that `wanted` accepts.
    pub(crate) fn alerts(&self, since: f64, wanted: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let path = PathBuf::from(self.text("alerts_file")?);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let fresh = lines.filter(|line| {
            line.get("received")
                .and_then(Value::as_f64)
                .is_some_and(|received| received >= since)
        });
        Ok(fresh.filter(|line| wanted(line)).collect())
    }

    /// Waits until the receiver took such an alert, or until `within` is over.
    pub(crate) async fn wait_for_alert(
        &self,
        since: f64,
        within: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Option<Value>> {
        let begun = Instant::now();
        loop {
            if let Some(alert) = self.alerts(since, &wanted)?.into_iter().next() {
                return Ok(Some(alert));
            }
            if begun.elapsed() > within {
                return Ok(None);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Logs in; gives the access token.
async fn log_in(client: &reqwest::Client, url: &str, login: &Value) -> Result<String> {
    let answer: Value = client
        .post(format!("{url}/api/v1/login"))
        .json(login)
        .send()
        .await
        .context("log in")?
        .error_for_status()
        .context("log in")?
        .json()
        .await
        .context("read the login's answer")?;
    let token = answer.get("access_token").and_then(Value::as_str);
    token
        .map(str::to_owned)
        .context("find the token in the login's answer")
}
