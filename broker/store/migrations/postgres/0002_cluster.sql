-- +goose Up

-- Processes that use the store. One that wasn't seen for a while is gone, and what it left is somebody else's.
CREATE TABLE members (
  id      BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  name    TEXT        NOT NULL,          -- of the broker, for people
  joined  TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  seen    TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);

-- Who leads the log: one row. A term is never used again, so that a transaction of an earlier leader can be told from one of this.
CREATE TABLE lease (
  one    BOOLEAN     PRIMARY KEY DEFAULT true CHECK (one),
  term   BIGINT      NOT NULL,
  member BIGINT,                         -- null: nobody
  until  TIMESTAMPTZ NOT NULL
);
INSERT INTO lease (term, until) VALUES (0, clock_timestamp());

-- Groups of entries on their way from the broker that made them to the one that leads. The transaction that gives a group its place marks it.
CREATE TABLE handed (
  id      BYTEA       PRIMARY KEY,
  seq     BIGINT      NOT NULL GENERATED ALWAYS AS IDENTITY,
  body    BYTEA,                         -- null once it has its place, or was refused
  indexes BYTEA,                         -- log indexes of its entries in their order, 8 bytes each, big-endian
  epoch   BIGINT,
  refused TEXT,                          -- why it has no place
  at      TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp() -- of handing over, then of its place
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
CREATE INDEX handed_open ON handed (seq) WHERE body IS NOT NULL;
CREATE INDEX handed_at ON handed (at);

ALTER TABLE handed ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE handed SET (toast_tuple_target = 8160);

-- At which process a request is that has no outcome yet.
ALTER TABLE intents ADD COLUMN member BIGINT NOT NULL DEFAULT 0;

GRANT SELECT, INSERT, UPDATE, DELETE ON members, handed TO regard_broker;
GRANT SELECT, UPDATE ON lease TO regard_broker;
GRANT SELECT ON members, lease, handed TO regard_keeper;
-- A restoration drops what was on its way, and who was there, when the backup was made.
GRANT DELETE ON members, handed TO regard_keeper;

-- +goose Down
DROP TABLE handed;
DROP TABLE lease;
DROP TABLE members;
