-- The span of a file's rows by the collector's clock; unknown in files that were written before these were kept.
ALTER TABLE parquet_files ADD COLUMN true_from INTEGER;
ALTER TABLE parquet_files ADD COLUMN true_to INTEGER;
