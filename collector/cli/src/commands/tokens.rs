//! Enrolment tokens.

use serde_json::json;

use crate::args::Token;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, complain};
use crate::shown::{date, items, text};

pub(crate) async fn run(client: &Client, output: &Output, token: Token) -> Result<(), Failure> {
    match token {
        Token::Create { lifetime_s, uses } => {
            let made = client
                .post(
                    "enrolment-tokens",
                    json!({ "lifetime_s": lifetime_s, "uses": uses }),
                )
                .await?;
            if output.is_json() {
                return output.json(&made);
            }
            // The token alone goes to standard output, so that a script can take it.
            output.line(&text(&made, "token"))?;
            complain(&format!(
                "token {} holds until {} for {} host(s); it is shown only now. On the host, as root: fleetmend-agent enroll",
                text(&made, "id"),
                date(&made, "expires_at"),
                text(&made, "uses")
            ));
            Ok(())
        }
        Token::List => {
            let list = client.get("enrolment-tokens", &[]).await?;
            if output.is_json() {
                return output.json(&list);
            }
            let columns = ["id", "created_by", "uses", "uses_left", "revoked"];
            let rows = items(&list, "items").iter().map(|token| {
                let mut row: Vec<String> = columns.iter().map(|name| text(token, name)).collect();
                row.push(date(token, "expires_at"));
                row
            });
            let header = ["ID", "BY", "USES", "LEFT", "REVOKED", "UNTIL"];
            output.table(&header, rows.collect(), "no tokens")
        }
        Token::Revoke { id } => {
            client.delete(&format!("enrolment-tokens/{id}")).await?;
            output.line(&format!("revoked token {id}"))
        }
    }
}
