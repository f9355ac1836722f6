-- The kind of device that a task's recipe names; empty where any worker of the role may take it.
ALTER TABLE tasks ADD COLUMN device TEXT NOT NULL DEFAULT '';
