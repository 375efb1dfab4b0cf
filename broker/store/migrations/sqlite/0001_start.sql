-- +goose Up

-- The order of the log: every entry, filed or governance. text is the public leaf itself.
CREATE TABLE leaves (
  log_index  INTEGER PRIMARY KEY,
  epoch      INTEGER NOT NULL,
  kind       TEXT    NOT NULL,
  identity   BLOB    NOT NULL,           -- Trillian's leaf identity value, 32 random bytes
  text       BLOB    NOT NULL
);

-- The private record behind a filed entry, sealed in two parts. owner is a keyed pseudonym of the person.
CREATE TABLE records (
  log_index  INTEGER PRIMARY KEY,
  disclosure INTEGER,                    -- disclosures.seq; null for accesses and erasures
  position   INTEGER NOT NULL,           -- 0 is the asked entry
  owner      BLOB    NOT NULL,
  person     BLOB    NOT NULL,           -- sealed under a key of owner; empty after the end of retention
  admin      BLOB    NOT NULL            -- sealed under a month key
);
CREATE INDEX records_owner ON records (owner, log_index);
CREATE INDEX records_disclosure ON records (disclosure, position) WHERE disclosure IS NOT NULL;

-- A disclosure: written with its intent before any provider is asked (state 0), completed with its outcome (state 1).
CREATE TABLE disclosures (
  seq      INTEGER PRIMARY KEY,
  id       BLOB    NOT NULL UNIQUE,      -- UUIDv7, the broker's own
  agency   TEXT    NOT NULL,
  idem     BLOB,                         -- digest of the Idempotency-Key, null if none
  body     BLOB,                         -- keyed digest of the request, for a day and until an erasure; null without idem
  asked_at INTEGER NOT NULL,
  state    INTEGER NOT NULL,
  owner    BLOB    NOT NULL
);
CREATE INDEX disclosures_open ON disclosures (seq) WHERE state = 0;
CREATE UNIQUE INDEX disclosures_idem ON disclosures (agency, idem) WHERE idem IS NOT NULL;

-- Intents: the asked record's parts of disclosures that have no outcome yet. Slots are used again; one whose disclosure is done is free. So this table is as large as
-- requests were ever under way at once, and may be read from end to end.
CREATE TABLE intents (
  slot       INTEGER PRIMARY KEY,
  disclosure INTEGER NOT NULL,           -- disclosures.seq
  person     BLOB    NOT NULL,
  admin      BLOB    NOT NULL
);

-- Sealed answers for repeats of a request, for 15 minutes. "window" names the minute whose key seals them.
CREATE TABLE payloads (
  disclosure INTEGER PRIMARY KEY,
  until      INTEGER NOT NULL,
  sealed     BLOB    NOT NULL
);

-- Which entry stands in which roll. Filled in log order; filed_upto in epochs says how far.
CREATE TABLE filings (
  epoch     INTEGER NOT NULL,
  label     BLOB    NOT NULL,
  log_index INTEGER NOT NULL,
  PRIMARY KEY (epoch, label, log_index)
) WITHOUT ROWID;

CREATE TABLE epochs (
  number     INTEGER PRIMARY KEY,
  marker     INTEGER NOT NULL,           -- log index of the marker that opened it
  text       BLOB    NOT NULL,
  opened     INTEGER NOT NULL,
  until      INTEGER NOT NULL,
  label_key  TEXT    NOT NULL,
  filed_upto INTEGER NOT NULL,           -- every filed entry below this log index has its label
  closer     INTEGER,                    -- the rest is null while it is open
  size       INTEGER,
  items      INTEGER,
  bits       INTEGER,
  root       BLOB
);

-- Wrapped data keys. Destroying one is deleting its row.
CREATE TABLE keys (
  id      BLOB    PRIMARY KEY,
  kind    TEXT    NOT NULL,
  owner   BLOB,
  period  TEXT    NOT NULL DEFAULT '',
  wrapped BLOB    NOT NULL,
  created INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX keys_owner ON keys (owner) WHERE owner IS NOT NULL;
-- Two brokers may want this month's key at once: one of them loses here.
CREATE UNIQUE INDEX keys_shared ON keys (kind, period) WHERE owner IS NULL;

-- Record keys whose destruction at the end of retention the log announced, by the entry at log_index. The key itself may still be there for a moment.
CREATE TABLE retired_keys (
  id        BLOB    PRIMARY KEY,
  log_index INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE agencies (
  id      TEXT PRIMARY KEY,
  name    TEXT NOT NULL,
  siret   TEXT NOT NULL,
  state   TEXT NOT NULL,                 -- active, revoked
  created INTEGER NOT NULL
);

-- Certificates by the SHA-256 of their SubjectPublicKeyInfo.
CREATE TABLE agency_keys (
  spki      BLOB PRIMARY KEY,
  agency    TEXT NOT NULL REFERENCES agencies (id),
  not_after INTEGER NOT NULL,
  state     TEXT NOT NULL,               -- active, retired, revoked
  created   INTEGER NOT NULL
);

CREATE TABLE agreements (
  id        TEXT    NOT NULL,
  version   INTEGER NOT NULL,
  agency    TEXT    NOT NULL,
  service   TEXT    NOT NULL,
  state     TEXT    NOT NULL,
  json      BLOB    NOT NULL,
  digest    BLOB    NOT NULL,
  log_index INTEGER NOT NULL,
  PRIMARY KEY (id, version)
);

CREATE TABLE services (
  id        TEXT    NOT NULL,
  version   INTEGER NOT NULL,
  state     TEXT    NOT NULL,            -- active, withdrawn
  yaml      BLOB    NOT NULL,
  digest    BLOB    NOT NULL,
  log_index INTEGER NOT NULL,
  PRIMARY KEY (id, version)
);

CREATE TABLE bundles (
  digest    BLOB PRIMARY KEY,
  revision  TEXT    NOT NULL,
  bytes     BLOB    NOT NULL,
  log_index INTEGER NOT NULL
);

-- An erasure of one identifier: begun, then in the log, then done. Until it is done nothing new is recorded under that owner.
CREATE TABLE erasures (
  id        BLOB PRIMARY KEY,
  owner     BLOB    NOT NULL,
  person    BLOB    NOT NULL,            -- the entry's record, sealed like every other
  admin     BLOB    NOT NULL,
  log_index INTEGER,
  done      INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX erasures_open ON erasures (id) WHERE done = 0;

CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value TEXT NOT NULL
);

-- +goose Down
SELECT 'the first version has no way down';
