-- +goose Up

CREATE TABLE auditors (
  id      TEXT PRIMARY KEY,
  name    TEXT NOT NULL,
  state   TEXT NOT NULL,                 -- active, revoked
  created INTEGER NOT NULL
);

-- Their client certificates by the SHA-256 of their SubjectPublicKeyInfo.
CREATE TABLE auditor_certs (
  spki      BLOB PRIMARY KEY,
  auditor   TEXT NOT NULL REFERENCES auditors (id),
  not_after INTEGER NOT NULL,
  state     TEXT NOT NULL,               -- active, retired, revoked
  created   INTEGER NOT NULL
);

-- The keys with which they cosign indexes, by what the log says of them: the SHA-256 of the key's text.
CREATE TABLE auditor_keys (
  digest  BLOB PRIMARY KEY,
  auditor TEXT NOT NULL REFERENCES auditors (id),
  vkey    TEXT NOT NULL,
  state   TEXT NOT NULL,                 -- active, retired, revoked
  created INTEGER NOT NULL
);

-- What an auditor was shown under an Idempotency-Key: for a day a repeat is shown the same without another entry. opened is u64 target ‖ u64 access@v1 entry for each record.
CREATE TABLE audits (
  auditor TEXT    NOT NULL,
  idem    BLOB    NOT NULL,              -- digest of the Idempotency-Key
  body    BLOB    NOT NULL,              -- digest of the request
  at      INTEGER NOT NULL,
  opened  BLOB    NOT NULL,
  PRIMARY KEY (auditor, idem)
) WITHOUT ROWID;

-- audit@v1 entries: under which the rest of erased records is read page by page, for a day.
CREATE TABLE erased_audits (
  log_index INTEGER PRIMARY KEY,
  auditor   TEXT    NOT NULL,
  first     INTEGER NOT NULL,            -- log indexes, both included
  last      INTEGER NOT NULL,
  at        INTEGER NOT NULL
);

-- +goose Down
DROP TABLE erased_audits;
DROP TABLE audits;
DROP TABLE auditor_keys;
DROP TABLE auditor_certs;
DROP TABLE auditors;
