//! Records are looked at before the store sees them.
//!
//! A frame whose header is no frame is refused with its stream: its identity is unknown. A frame whose body
//! cannot be read, or does not fit its table, is replaced by its tombstone, so that its number is not skipped,
//! and a gap row says what was lost. Columns that this collector does not know are left to the store.

use bytes::Bytes;
use fleetmend_event::table::{Exactness, Gap, GapStage, table_by_id};
use fleetmend_event::{Frame, FrameError, TableInfo, TimeMicros};

/// A record that was replaced, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Short reason, as in gap rows and metrics.
    pub reason: &'static str,
    /// What is wrong with it, in words.
    pub detail: String,
}

/// Records that may be stored, and the gaps for those that were replaced.
#[derive(Debug, Default)]
pub struct Validated {
    /// In the order in which they came.
    pub frames: Vec<Frame>,
    /// One per replaced record.
    pub gaps: Vec<Gap>,
    /// Why they were replaced.
    pub replaced: Vec<Replaced>,
}

/// Looks at every record of a message.
///
/// # Errors
/// When one is no frame at all.
pub fn validate(records: &[Bytes]) -> Result<Validated, FrameError> {
    let mut validated = Validated::default();
    for bytes in records {
        let frame = Frame::decode(bytes)?;
        match check(&frame) {
            Ok(()) => validated.frames.push(frame),
            Err(replaced) => {
                validated.gaps.push(gap(&frame, &replaced));
                validated.replaced.push(replaced);
                validated.frames.push(frame.shed());
            }
        }
    }
    Ok(validated)
}

/// Whether a frame's body is a batch of its table.
///
/// # Errors
/// Why it is not.
pub fn check(frame: &Frame) -> Result<(), Replaced> {
    if frame.tombstone {
        return Ok(());
    }
    let refuse = |reason, detail: String| Err(Replaced { reason, detail });
    let Some(table) = table_by_id(frame.table) else {
        return refuse("unknown_table", format!("table {} is not known here: the agent may be newer", frame.table));
    };
    if table.lane != frame.id.lane {
        return refuse("wrong_lane", format!("table {} does not travel in lane {}", table.name, frame.id.lane));
    }
    let batch = match frame.batch() {
        Ok(Some(batch)) => batch,
        Ok(None) => return Ok(()),
        Err(error) => return refuse("unreadable", error.to_string()),
    };
    if u32::try_from(batch.num_rows()).ok() != Some(frame.rows) {
        return refuse("row_count", format!("header says {} rows, body has {}", frame.rows, batch.num_rows()));
    }
    schema_fits(table, &batch.schema()).map_or(Ok(()), |detail| refuse("schema", detail))
}

fn schema_fits(table: &TableInfo, schema: &arrow::datatypes::Schema) -> Option<String> {
    for field in table.schema.fields() {
        match schema.field_with_name(field.name()) {
            Ok(found) if found.data_type() != field.data_type() => {
                return Some(format!("{}.{} is {}, not {}", table.name, field.name(), found.data_type(), field.data_type()));
            }
            Ok(_) => {}
            Err(_) if field.is_nullable() => {}
            Err(_) => return Some(format!("{} lacks the column {}", table.name, field.name())),
        }
    }
    None
}

fn gap(frame: &Frame, replaced: &Replaced) -> Gap {
    Gap {
        time: TimeMicros::now(),
        table: table_by_id(frame.table).map_or("*", |table| table.name).to_owned(),
        lane: frame.id.lane,
        from_time: frame.from_time,
        to_time: frame.to_time,
        count: u64::from(frame.rows),
        exactness: Exactness::Exact,
        stage: GapStage::Ingest,
        reason: replaced.reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_event::table::{ProbeState, ProbeStatus, Table};
    use fleetmend_event::{Lane, RecordId, Sequence, SpoolEpoch, frame::Stamp};

    use super::*;

    fn frame() -> Frame {
        let row = ProbeStatus {
            time: TimeMicros(2),
            probe: "p".into(),
            state: ProbeState::Real,
            reason: String::new(),
            hint: String::new(),
            seen: 0,
            delivered: 0,
            lost: 0,
        };
        let id = RecordId { epoch: SpoolEpoch::random(), lane: Lane::Events, sequence: Sequence(1) };
        let batch = ProbeStatus::to_batch(&[row]).unwrap();
        let stamp = Stamp { wall: TimeMicros(3), boot_us: 1 };
        Frame::of_batch(id, &TableInfo::of::<ProbeStatus>(), &batch, stamp, (TimeMicros(1), TimeMicros(2))).unwrap()
    }

    #[test]
    fn good_record_passes_as_it_is() {
        let validated = validate(&[frame().encode()]).unwrap();
        assert!(validated.gaps.is_empty() && !validated.frames[0].tombstone);
    }

    #[test]
    fn record_that_cannot_be_read_becomes_a_tombstone_and_a_gap() {
        let cases: [(&str, fn(&mut Frame)); 5] = [
            ("unreadable", |frame| frame.body = Bytes::from_static(b"garbage")),
            ("row_count", |frame| frame.rows = 9),
            ("unknown_table", |frame| frame.table = 9_999),
            ("schema", |frame| frame.table = 6),
            ("wrong_lane", |frame| frame.id.lane = Lane::Critical),
        ];
        for (reason, spoil) in cases {
            let mut bad = frame();
            spoil(&mut bad);
            let validated = validate(&[bad.encode(), frame().encode()]).unwrap();
            assert_eq!(validated.frames.len(), 2, "{reason}");
            assert!(validated.frames[0].tombstone && validated.frames[0].id == bad.id, "{reason}");
            assert!(!validated.frames[1].tombstone, "{reason}: the next record is not hindered");
            assert_eq!((validated.gaps.len(), validated.gaps[0].reason.as_str()), (1, reason));
        }
    }

    #[test]
    fn bytes_that_are_no_frame_are_refused() {
        assert!(validate(&[Bytes::from_static(b"not a frame")]).is_err());
    }
}
