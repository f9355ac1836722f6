-- What the stage that made a commit needs of it, so that a restart reads no commit of the store.
CREATE TABLE commits (
    run TEXT NOT NULL,
    stage TEXT NOT NULL,
    shard TEXT NOT NULL,
    -- `plan::commit::Summary` as JSON.
    summary TEXT NOT NULL,
    PRIMARY KEY (run, stage, shard)
);

-- Stages of which every commit that was in the store is known.
CREATE TABLE listed (
    run TEXT NOT NULL,
    stage TEXT NOT NULL,
    PRIMARY KEY (run, stage)
);

-- Tasks name their settings now instead of holding them: drivers make them anew.
DELETE FROM tasks;
DELETE FROM task_states;
DELETE FROM attempts;
