//! Parquet files, read back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow::array::{Array, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use async_trait::async_trait;
use collector_export::parquet::{MANIFEST, Manifest, ParquetRequest, export_to_folder, export_to_stream};
use collector_export::{FactSource, LiveRows, ParquetError, RowSpan, SampleSpan, Series, SourceError};
use fleetmend_event::{HostId, HostScope, TimeMicros};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sha2::{Digest, Sha256};

use crate::testbed::Testbed;

const DAY: i64 = 86_400_000;

fn request(from: i64, to: i64) -> ParquetRequest {
    ParquetRequest {
        table: "metrics".to_owned(),
        from: TimeMicros(from * 1_000),
        to: TimeMicros(to * 1_000),
        hosts: None,
        scope: HostScope::All,
    }
}

type Row = (i64, String, String, f64);

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    fn column<'a, A: 'static>(batch: &'a RecordBatch, name: &str) -> &'a A {
        batch
            .column_by_name(name)
            .unwrap()
            .as_any()
            .downcast_ref()
            .unwrap()
    }
    let (times, hosts) = (
        column::<TimestampMicrosecondArray>(batch, "time"),
        column::<StringArray>(batch, "host_id"),
    );
    let (names, values) = (
        column::<StringArray>(batch, "name"),
        column::<Float64Array>(batch, "value"),
    );
    (0..batch.num_rows())
        .map(|row| {
            let text = |array: &StringArray| array.value(row).to_owned();
            (
                times.value(row) / 1_000,
                text(hosts),
                text(names),
                values.value(row),
            )
        })
        .collect()
}

fn read(file: impl parquet::file::reader::ChunkReader + 'static) -> Vec<Row> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap();
    reader.flat_map(|batch| rows_of(&batch.unwrap())).collect()
}

/// What pyarrow, which has a reader of its own, finds in a folder; none where it is missing and may be.
fn read_by_pyarrow(folder: &Path) -> Option<Vec<Row>> {
    const PROGRAM: &str = "import json, sys, pyarrow.parquet as p
for name in sys.argv[1:]:
    for row in p.read_table(name).to_pylist():
        at = row['time']
        print(json.dumps([int(at.timestamp()) * 1000 + at.microsecond // 1000, row['host_id'], row['name'], row['value']]))";
    let python = std::env::var_os("FLEETMEND_CHDB_PYTHON").map(PathBuf::from);
    let cached = || {
        let home = PathBuf::from(std::env::var_os("HOME")?);
        Some(home.join(".cache/fleetmend/venv/bin/python3"))
    };
    let python = python.or_else(cached)?;
    let has = Command::new(&python).args(["-c", "import pyarrow"]).output();
    if !has.is_ok_and(|has| has.status.success()) {
        let missing = format!(
            "{} has no pyarrow: `cargo xtask test` installs it",
            python.display()
        );
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("NOT RUN: {missing}");
        return None;
    }
    let files = names(folder)
        .into_iter()
        .filter(|name| name.ends_with(".parquet"));
    let mut command = Command::new(&python);
    command
        .args(["-c", PROGRAM])
        .args(files.map(|name| folder.join(name)));
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let lines = String::from_utf8(out.stdout).unwrap();
    Some(
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
    )
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn files_hold_the_rows_that_are_stored() {
    let testbed = Testbed::start().await;
    let midnight = (TimeMicros::now().0 / 1_000).div_euclid(DAY) * DAY;
    let times: Vec<i64> = (-5..5).map(|step| midnight + step * 1_000).collect();
    testbed.add(times.clone()).await;
    let folder = testbed.folder().join("out");
    let wanted = request(midnight - 4_000, midnight + 3_000);
    let manifest = export_to_folder(testbed.source.as_ref(), &wanted, &folder)
        .await
        .unwrap();
    let kept: Manifest = serde_json::from_slice(&std::fs::read(folder.join(MANIFEST)).unwrap()).unwrap();
    assert_eq!(kept, manifest);
    assert_eq!(manifest.files.len(), 2, "a file for each day");
    let mut found = Vec::new();
    for file in &manifest.files {
        let bytes = std::fs::read(folder.join(&file.name)).unwrap();
        assert_eq!(hex::encode(Sha256::digest(&bytes)), file.sha256);
        assert_eq!(bytes.len() as u64, file.bytes);
        let rows = read(std::fs::File::open(folder.join(&file.name)).unwrap());
        assert_eq!(rows.len() as u64, file.rows);
        found.extend(rows);
    }
    let mut expected: Vec<Row> = Vec::new();
    for time in times
        .iter()
        .filter(|time| (midnight - 4_000..midnight + 3_000).contains(time))
    {
        for host in testbed.hosts {
            for (index, name) in ["system.load.1m", "system.cpu.time", "bad.series"]
                .iter()
                .enumerate()
            {
                let value = *time as f64 + index as f64 / 8.0;
                expected.push((*time, host.to_string(), (*name).to_owned(), value));
            }
        }
    }
    expected.sort_by(|a, b| (a.0, &a.1, &a.2).cmp(&(b.0, &b.1, &b.2)));
    assert_eq!(found, expected, "sorted by time, host and series");
    if let Some(found) = read_by_pyarrow(&folder) {
        assert_eq!(found, expected, "as others read it");
    }
    assert_eq!(manifest.rows, expected.len() as u64);
    // The same as one streamed file, for somebody who may see one host.
    let mut of_one = wanted.clone();
    of_one.hosts = Some(BTreeSet::from(testbed.hosts));
    of_one.scope = HostScope::only([testbed.hosts[1]]);
    let (to, mut pieces) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, ()>>(1);
    let source = testbed.source.clone();
    let (rows, file) = tokio::join!(export_to_stream(source, of_one, to), async {
        let mut file = Vec::new();
        while let Some(piece) = pieces.recv().await {
            file.extend_from_slice(&piece.unwrap());
        }
        bytes::Bytes::from(file)
    });
    let of_host: Vec<Row> = expected
        .into_iter()
        .filter(|row| row.1 == testbed.hosts[1].to_string())
        .collect();
    assert_eq!(rows.unwrap(), of_host.len() as u64);
    assert_eq!(read(file), of_host);
    let again = export_to_folder(testbed.source.as_ref(), &wanted, &folder)
        .await
        .unwrap_err();
    assert!(again.to_string().contains("holds an export already"), "{again}");
}

/// A source that fails after so many answers, and lets few rows through at once.
struct Failing {
    source: Arc<dyn FactSource>,
    answers: std::sync::atomic::AtomicUsize,
    rows_max: usize,
}

#[async_trait]
impl FactSource for Failing {
    fn live(&self) -> Box<dyn LiveRows> {
        self.source.live()
    }

    fn tells_all(&self) -> bool {
        self.source.tells_all()
    }

    async fn hosts(&self) -> Result<std::collections::BTreeMap<HostId, Option<String>>, SourceError> {
        self.source.hosts().await
    }

    async fn samples(&self, span: SampleSpan) -> Result<Vec<Series>, SourceError> {
        self.source.samples(span).await
    }

    async fn rows(
        &self,
        table: &str,
        span: RowSpan,
        scope: &HostScope,
        _: usize,
    ) -> Result<(Vec<RecordBatch>, bool), SourceError> {
        use std::sync::atomic::Ordering;
        let left = self.answers.load(Ordering::SeqCst);
        if left == 0 {
            return Err(SourceError::Unavailable("it is gone".to_owned()));
        }
        self.answers.store(left - 1, Ordering::SeqCst);
        self.source.rows(table, span, scope, self.rows_max).await
    }

    async fn gaps(
        &self,
        table: &str,
        from: TimeMicros,
        to: TimeMicros,
        scope: &HostScope,
    ) -> Result<Vec<serde_json::Value>, SourceError> {
        self.source.gaps(table, from, to, scope).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn export_that_fails_leaves_no_half_file_and_one_with_small_steps_holds_all() {
    let testbed = Testbed::start().await;
    let begin = TimeMicros::now().0 / 1_000 - 10_000;
    testbed.add((0..10).map(|step| begin + step)).await;
    let source = |answers: usize| Failing {
        source: testbed.source.clone(),
        answers: answers.into(),
        rows_max: 7,
    };
    let wanted = request(begin, begin + 10);
    let whole = testbed.folder().join("whole");
    let manifest = export_to_folder(&source(usize::MAX), &wanted, &whole)
        .await
        .unwrap();
    assert_eq!(manifest.rows, 60);
    let mut failed = 0;
    for answers in 0..40 {
        let folder = testbed.folder().join(format!("out-{answers}"));
        match export_to_folder(&source(answers), &wanted, &folder).await {
            Ok(manifest) => assert_eq!(manifest.rows, 60),
            Err(error) => {
                assert!(matches!(error, ParquetError::Source { .. }), "{error:?}");
                let whole: Vec<String> = names(&folder)
                    .into_iter()
                    .filter(|name| !name.starts_with('.'))
                    .collect();
                assert_eq!(whole, Vec::<String>::new(), "after {answers} answers");
                failed += 1;
            }
        }
    }
    assert!(failed > 10, "{failed}");
    // More rows in one moment than one answer holds can be in no window.
    let too_small = Failing {
        rows_max: 5,
        ..source(usize::MAX)
    };
    let error = export_to_folder(&too_small, &wanted, &testbed.folder().join("small"))
        .await
        .unwrap_err();
    assert!(matches!(error, ParquetError::Moment { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_that_goes_away_ends_the_export() {
    let testbed = Testbed::start().await;
    let begin = TimeMicros::now().0 / 1_000 - 10_000;
    testbed.add([begin]).await;
    let (to, pieces) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, ()>>(1);
    drop(pieces);
    let error = export_to_stream(testbed.source.clone(), request(begin, begin + 1), to)
        .await
        .unwrap_err();
    assert!(matches!(error, ParquetError::Gone), "{error:?}");
}
