//! Records as newline-delimited JSON: one document a line, ECS or OCSF.

use bytes::Bytes;
use fleetmend_event::HostId;
use serde_json::Value;

use crate::config::RecordFormat;
use crate::deliver::Encode;
use crate::http::Request;
use crate::record::{Record, Records};
use crate::{ecs, ocsf};

/// A record in a format.
pub fn render(format: RecordFormat, record: &Record, host_name: Option<&str>) -> Value {
    match format {
        RecordFormat::Ecs => ecs::document(record, host_name),
        RecordFormat::Ocsf => ocsf::event(record, host_name),
    }
}

/// Lines to POST.
pub(crate) struct Ndjson {
    pub(crate) format: RecordFormat,
}

impl Encode<Records> for Ndjson {
    fn encode(&self, records: &Records) -> Result<Request, String> {
        let name = |host: &HostId| records.names.get(host).map(String::as_str);
        let mut lines = Vec::new();
        for record in &records.records {
            let line = render(self.format, record, name(&record.host));
            serde_json::to_writer(&mut lines, &line).map_err(|error| error.to_string())?;
            lines.push(b'\n');
        }
        Ok(Request {
            path: "",
            content_type: "application/x-ndjson",
            content_encoding: None,
            headers: &[],
            body: Bytes::from(lines),
        })
    }
}
