-- The key of the tokens that grants carry, in hexadecimal; empty before the first start.
ALTER TABLE coordinator ADD COLUMN secret TEXT NOT NULL DEFAULT '';
