-- Rows of tasks, attempts and commits lie in the tree of their key, where each had a tree of its own
-- beside an index: half the pages to write for every task.
CREATE TABLE tasks_new (
    run TEXT NOT NULL,
    stage TEXT NOT NULL,
    shard TEXT NOT NULL,
    -- Place in the order of adding.
    position BIGINT NOT NULL,
    role TEXT NOT NULL,
    world_size BIGINT NOT NULL,
    -- The base file that it reads, in hexadecimal; empty where it is not one.
    base TEXT NOT NULL,
    may_twin BIGINT NOT NULL,
    task_json TEXT NOT NULL,
    -- The kind of device that its recipe names; empty where any worker of the role may take it.
    device TEXT NOT NULL,
    PRIMARY KEY (run, stage, shard)
) WITHOUT ROWID;
INSERT INTO tasks_new SELECT run, stage, shard, position, role, world_size, base, may_twin, task_json, device FROM tasks;
DROP TABLE tasks;
ALTER TABLE tasks_new RENAME TO tasks;

CREATE TABLE task_states_new (
    run TEXT NOT NULL,
    stage TEXT NOT NULL,
    shard TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    -- JSON: workers that failed it.
    failed_on TEXT NOT NULL,
    last_worker TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (run, stage, shard)
) WITHOUT ROWID;
INSERT INTO task_states_new SELECT run, stage, shard, state, attempts, failed_on, last_worker, message FROM task_states;
DROP TABLE task_states;
ALTER TABLE task_states_new RENAME TO task_states;

CREATE TABLE attempts_new (
    run TEXT NOT NULL,
    stage TEXT NOT NULL,
    shard TEXT NOT NULL,
    -- The lease epoch.
    generation BIGINT NOT NULL,
    counter BIGINT NOT NULL,
    rank BIGINT NOT NULL,
    number BIGINT NOT NULL,
    worker TEXT NOT NULL,
    -- Whether this rank has done its part.
    finished BIGINT NOT NULL,
    started_unix_ms BIGINT NOT NULL,
    -- 0 while it goes on.
    ended_unix_ms BIGINT NOT NULL,
    -- What the task became when it ended.
    outcome TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (run, stage, shard, generation, counter, rank)
) WITHOUT ROWID;
INSERT INTO attempts_new SELECT run, stage, shard, generation, counter, rank, number, worker, finished, started_unix_ms, ended_unix_ms, outcome, message FROM attempts;
-- With the table goes its index of open attempts: a run has few that ended.
DROP TABLE attempts;
ALTER TABLE attempts_new RENAME TO attempts;

CREATE TABLE commits_new (
    run TEXT NOT NULL,
    stage TEXT NOT NULL,
    shard TEXT NOT NULL,
    -- `plan::commit::Summary` as JSON.
    summary TEXT NOT NULL,
    PRIMARY KEY (run, stage, shard)
) WITHOUT ROWID;
INSERT INTO commits_new SELECT run, stage, shard, summary FROM commits;
DROP TABLE commits;
ALTER TABLE commits_new RENAME TO commits;
