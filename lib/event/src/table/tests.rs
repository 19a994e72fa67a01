use super::*;
use crate::{Fact, FactBuffer, MetricFrame, SeriesKey, TimeMicros};

#[test]
fn tables_have_numbers_and_names_of_their_own() {
    let mut ids: Vec<u16> = tables().iter().map(|table| table.id).collect();
    let mut names: Vec<&str> = tables().iter().map(|table| table.name).collect();
    ids.sort_unstable();
    ids.dedup();
    names.sort_unstable();
    names.dedup();
    assert_eq!((ids.len(), names.len()), (tables().len(), tables().len()));
}

#[test]
fn row_comes_back_as_it_was() {
    let row = ProbeStatus {
        time: TimeMicros(1_700_000_000_000_000),
        probe: "bpf.process".into(),
        state: ProbeState::Degraded,
        reason: "no BTF".into(),
        hint: String::new(),
        seen: 3,
        delivered: 2,
        lost: 1,
    };
    let batch = ProbeStatus::to_batch(&[row.clone(), row.clone()]).unwrap();
    assert_eq!(ProbeStatus::from_batch(&batch).unwrap(), vec![row.clone(), row]);
}

#[test]
fn missing_column_that_must_be_there_is_named() {
    let batch = ProbeStatus::to_batch::<ProbeStatus>(&[]).unwrap();
    let error = Gap::from_batch(&batch.project(&[0]).unwrap());
    assert!(error.is_ok(), "no rows, nothing to miss");
    let row = HostInfo {
        time: TimeMicros(1),
        hostname: "web-1".into(),
        os: "Debian".into(),
        kernel: "6.1".into(),
        arch: "x86_64".into(),
        cpu_count: 2,
        memory_bytes: 1,
        boot_time: TimeMicros(0),
        agent_version: "0.1.0".into(),
        healing: "observe".into(),
    };
    let batch = HostInfo::to_batch(&[row]).unwrap();
    let error = Gap::from_batch(&batch).unwrap_err();
    assert_eq!(
        error,
        RowError::Missing {
            table: "gaps",
            column: "table"
        }
    );
}

#[test]
fn column_missing_from_an_older_batch_is_none() {
    let row = ModelStatus {
        time: TimeMicros(1),
        model: "host-anomaly".into(),
        version: "1".into(),
        digest: "00".into(),
        state: ModelState::Learning,
        reason: "warming up".into(),
        windows: 1,
        fitted_at: Some(TimeMicros(1)),
        inference_p99_us: Some(1.0),
        score: Some(0.5),
    };
    let batch = ModelStatus::to_batch(&[row]).unwrap();
    let older = batch.project(&[0, 1, 2, 3, 4, 5, 6]).unwrap();
    let rows = ModelStatus::from_batch(&older).unwrap();
    assert_eq!((rows[0].fitted_at, rows[0].score), (None, None));
}

#[test]
fn metric_frames_become_one_row_per_series() {
    let series: crate::SeriesSet = vec![
        SeriesKey::new("system.cpu.utilization", "1", [("cpu.mode", "user")]),
        SeriesKey::new("system.memory.usage", "By", []),
    ]
    .into();
    let mut buffer = FactBuffer::default();
    for second in 0..3_i64 {
        let values = vec![second as f64, f64::NAN];
        buffer.push(Fact::Metrics(MetricFrame {
            time: TimeMicros(second * 1_000_000),
            series: series.clone(),
            values,
        }));
    }
    assert_eq!(buffer.len(crate::Lane::Metrics), 3);
    let batches = buffer.take(crate::Lane::Metrics).unwrap();
    let rows = MetricChunk::from_batch(&batches[0].1).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(
        (rows[0].step_ms, rows[0].value.as_slice()),
        (1_000, [0.0, 1.0, 2.0].as_slice())
    );
    assert_eq!(rows[0].labels, r#"{"cpu.mode":"user"}"#);
    assert_eq!(rows[0].sample_time(2), TimeMicros(2_000_000));
    assert!(rows[1].value.iter().all(|value| value.is_nan()));
    assert_eq!(buffer.len(crate::Lane::Metrics), 0);
}
