-- Days, since 1970, whose tiers of metrics are to be made anew, because samples of them came: since when (microseconds
-- since 1970), and how often.
CREATE TABLE dirty_days (
    day    INTEGER PRIMARY KEY,
    since  INTEGER NOT NULL,
    marked INTEGER NOT NULL
) STRICT;
