-- +goose Up

-- When the people whom a disclosure concerns may learn of it, in ms; null: at once.
ALTER TABLE disclosures ADD COLUMN due INTEGER;

-- What is behind deferred@v1 entries until their delay is over; then it goes to records. It stands apart, so that nothing that is looked for under a person can find it.
CREATE TABLE deferrals (
  log_index  INTEGER PRIMARY KEY,        -- of deferred@v1
  disclosure INTEGER NOT NULL,           -- disclosures.seq; of an access, that of the record which was opened
  position   INTEGER,                    -- 0 is the asked entry; null: an access
  due        INTEGER NOT NULL,           -- when the delay is over, ms: the same for all of a disclosure
  ended      TEXT    NOT NULL DEFAULT '',-- why it was ended before its time
  owner      BLOB    NOT NULL,
  person     BLOB    NOT NULL,           -- sealed under a key of its own
  admin      BLOB    NOT NULL
);
CREATE INDEX deferrals_due ON deferrals (due, disclosure);
CREATE INDEX deferrals_disclosure ON deferrals (disclosure, position);
CREATE INDEX deferrals_month ON deferrals (substr(admin, 3, 16)); -- the key that sealed it

-- By owner only subjects' keys are looked for, for every request: how many records of somebody are deferred mustn't count.
DROP INDEX keys_owner;
CREATE INDEX keys_owner ON keys (owner) WHERE kind = 'subject';

-- Delays that are over.
CREATE TABLE opened (
  log_index INTEGER PRIMARY KEY,         -- of opened@v1
  deferred  INTEGER NOT NULL UNIQUE,     -- of the deferred@v1 entry that it names
  at        INTEGER NOT NULL,            -- ms; 0: lost with a restoration
  ended     TEXT    NOT NULL             -- as in deferrals
);

-- +goose Down
SELECT 'the log can''t take back that something was deferred';
