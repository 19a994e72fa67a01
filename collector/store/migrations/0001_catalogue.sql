-- One row: the life of this store. It changes when the store is made anew or restored.
CREATE TABLE store_identity (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    epoch      BLOB    NOT NULL CHECK (length(epoch) = 16),
    created_at INTEGER NOT NULL
) STRICT;

-- Segments whose rows are in Parquet files; a row goes when the segment's file is deleted.
CREATE TABLE compacted_segments (
    number       INTEGER PRIMARY KEY,
    compacted_at INTEGER NOT NULL
) STRICT;

-- Times in microseconds since 1970, days since 1970.
CREATE TABLE parquet_files (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    path        TEXT    NOT NULL UNIQUE,
    table_name  TEXT    NOT NULL,
    day         INTEGER NOT NULL,
    from_time   INTEGER NOT NULL,
    to_time     INTEGER NOT NULL,
    ingested_to INTEGER NOT NULL,
    row_count   INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    digest      TEXT    NOT NULL,
    state       TEXT    NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'damaged'))
) STRICT;
CREATE INDEX parquet_files_by_table ON parquet_files (table_name, day);

-- Marks of streams whose segments are compacted; the segments that are left raise them.
CREATE TABLE marks (
    host     BLOB    NOT NULL CHECK (length(host) = 16),
    epoch    BLOB    NOT NULL CHECK (length(epoch) = 16),
    lane     INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    seen_at  INTEGER NOT NULL,
    PRIMARY KEY (host, epoch, lane)
) STRICT, WITHOUT ROWID;
