-- Which store it is in all its lives: it stays when it is restored, and when its catalogue is made anew from its files.
ALTER TABLE store_identity ADD COLUMN store_id BLOB CHECK (length(store_id) = 16);
