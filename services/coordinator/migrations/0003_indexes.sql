-- Lists and a restart read few rows of many.
CREATE INDEX runs_by_submission ON runs (submitted_unix_ms, run);
CREATE INDEX runs_by_state ON runs (state);
CREATE INDEX attempts_open ON attempts (run, stage, shard) WHERE ended_unix_ms = 0;
