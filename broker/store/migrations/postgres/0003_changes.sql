-- +goose Up

-- Who is about to be erased: nothing about them begins any more, so that what has begun comes to an end. A row goes with its erasure, or when nothing comes of it.
CREATE TABLE erasing (
  owner BYTEA       PRIMARY KEY,
  since TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);

-- How often something changed that processes keep in memory. The transaction that changes it counts, so a process that knows the number knows what it has to.
CREATE TABLE changes (
  what   TEXT   PRIMARY KEY,
  number BIGINT NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
INSERT INTO changes (what, number) VALUES
  ('registry', 1), -- who may ask for what: the registry, and the policy bundle in force
  ('keys', 1),     -- which keys there are: some were destroyed, or came into force
  ('barrier', 1);  -- somebody waits until all that processes had begun by now has ended

-- The last barrier before which nothing is under way any more at a process.
ALTER TABLE members ADD COLUMN landed BIGINT NOT NULL DEFAULT 0;

GRANT SELECT, INSERT, UPDATE, DELETE ON erasing TO regard_broker, regard_keeper;
GRANT SELECT, UPDATE (number) ON changes TO regard_broker, regard_keeper;

-- +goose Down
ALTER TABLE members DROP COLUMN landed;
DROP TABLE changes;
DROP TABLE erasing;
