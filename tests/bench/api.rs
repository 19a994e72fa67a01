//! The collector's API as the benchmarks use it: log in, make tokens, count rows.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Longest wait for an answer: counting tens of millions of samples takes a while.
const TIMEOUT: Duration = Duration::from_secs(90);

/// A session with the administrator's rights.
pub(crate) struct Api {
    url: String,
    client: reqwest::Client,
    token: String,
}

impl Api {
    /// Logs in.
    pub(crate) async fn login(url: &str, user: &str, password: &str) -> Result<Self> {
        // The client wants a provider even where it speaks plain HTTP to loopback; a second one is refused.
        rustls::crypto::aws_lc_rs::default_provider()
            .install_default()
            .ok();
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .build()
            .context("make an HTTP client")?;
        let login = json!({"user": user, "password": password});
        let answer: Value = client
            .post(format!("{url}/api/v1/login"))
            .json(&login)
            .send()
            .await
            .context("log in")?
            .error_for_status()
            .context("log in")?
            .json()
            .await
            .context("read the login's answer")?;
        let token = answer
            .get("access_token")
            .and_then(Value::as_str)
            .context("find the token in the login's answer")?;
        Ok(Self {
            url: url.to_owned(),
            client,
            token: token.to_owned(),
        })
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.client
            .post(format!("{}/api/v1/{path}", self.url))
            .bearer_auth(&self.token)
            .json(body)
            .send()
            .await
            .with_context(|| format!("ask {path}"))?
            .json()
            .await
            .with_context(|| format!("read the answer of {path}"))
    }

    /// An enrolment token for so many hosts.
    pub(crate) async fn enrolment_token(&self, uses: u32) -> Result<String> {
        let body = json!({"lifetime_s": 600, "uses": uses});
        let answer = self.post("enrolment-tokens", &body).await?;
        let token = answer.get("token").and_then(Value::as_str);
        Ok(token
            .with_context(|| format!("find the token in {answer}"))?
            .to_owned())
    }

    /// Rows of a query.
    pub(crate) async fn sql(&self, query: &str) -> Result<Vec<Vec<Value>>> {
        let answer = self.post("sql", &json!({"query": query})).await?;
        let Some(rows) = answer.get("rows").and_then(Value::as_array) else {
            bail!("the query {query:?} was refused: {answer}");
        };
        Ok(rows
            .iter()
            .map(|row| row.as_array().cloned().unwrap_or_default())
            .collect())
    }
}
