-- Shards that were given up, a row each: a stage whose row changes need not be written with all of them.
CREATE TABLE given_up (
    run TEXT NOT NULL,
    stage TEXT NOT NULL,
    shard TEXT NOT NULL,
    -- Why.
    said TEXT NOT NULL,
    PRIMARY KEY (run, stage, shard)
);

INSERT INTO given_up (run, stage, shard, said)
SELECT stages.run, stages.stage, each.key, each.value
FROM stages, json_each(stages.quarantined) AS each;

ALTER TABLE stages DROP COLUMN quarantined;
