-- Chunks that hold a file's samples; none in files of one row per sample or event.
ALTER TABLE parquet_files ADD COLUMN chunk_count INTEGER;
