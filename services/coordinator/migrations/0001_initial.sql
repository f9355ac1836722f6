-- Runs, stages, tasks, attempts and leases. One set of statements for SQLite and PostgreSQL.
-- All of it can be made anew from run.json and the commits of the store.

-- One row: which generation of the store this database belongs to.
CREATE TABLE coordinator (
    id BIGINT NOT NULL PRIMARY KEY,
    -- The newest generation that it knows; 0 before the first.
    generation BIGINT NOT NULL,
    -- The start that took it, as its record in the store says.
    start TEXT NOT NULL,
    -- The start that is about to take the next one.
    intended TEXT NOT NULL
);

CREATE TABLE runs (
    run TEXT NOT NULL PRIMARY KEY,
    pipeline TEXT NOT NULL,
    pipeline_json TEXT NOT NULL,
    -- An unsigned 64-bit number, which no portable column type holds.
    seed TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    submitted_unix_ms BIGINT NOT NULL,
    -- 0 while it goes on.
    ended_unix_ms BIGINT NOT NULL,
    leased BIGINT NOT NULL
);

CREATE TABLE stages (
    run TEXT NOT NULL,
    stage TEXT NOT NULL,
    -- Place in an order in which every stage comes after those that it reads.
    position BIGINT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    tasks BIGINT NOT NULL,
    committed BIGINT NOT NULL,
    adopted BIGINT NOT NULL,
    -- JSON: shard to what it said.
    quarantined TEXT NOT NULL,
    started_unix_ms BIGINT NOT NULL,
    ended_unix_ms BIGINT NOT NULL,
    output_json TEXT NOT NULL,
    PRIMARY KEY (run, stage)
);

-- What is to be done: written once.
CREATE TABLE tasks (
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
    PRIMARY KEY (run, stage, shard)
);

-- Where tasks stand, in rows of their own, so that a change does not write a task anew.
-- A task without a row was never failed and is not done. Who holds it stands in its attempts.
CREATE TABLE task_states (
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
);

-- Every try of a task, a row for each rank. One that has not ended is a lease.
CREATE TABLE attempts (
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
);
