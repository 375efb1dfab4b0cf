-- +goose Up

-- Sessions of the citizen's portal. Who has the token opens sealed, and nobody else: neither the token nor a key to sealed is in the store.
CREATE TABLE sessions (
  id      BLOB    PRIMARY KEY,           -- SHA-256 of the token
  account BLOB    NOT NULL,              -- owner of the pivot identity
  sealed  BLOB    NOT NULL,
  created INTEGER NOT NULL,
  seen    INTEGER NOT NULL,
  until   INTEGER NOT NULL               -- from then on it is ended, unless it is used before
) WITHOUT ROWID;
CREATE INDEX sessions_account ON sessions (account);
CREATE INDEX sessions_until ON sessions (until);

-- Sign-ins that came back from the identity provider, so that none does twice.
CREATE TABLE spent_sign_ins (
  id    BLOB    PRIMARY KEY,             -- SHA-256 of the state
  until INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX spent_sign_ins_until ON spent_sign_ins (until);

-- Identifiers that people attached to their accounts. account and owner are keyed pseudonyms, of the pivot identity and of the identifier.
CREATE TABLE identifiers (
  account  BLOB    NOT NULL,
  owner    BLOB    NOT NULL,
  type     TEXT    NOT NULL,
  proven   TEXT    NOT NULL,             -- claim, check
  sealed   BLOB    NOT NULL,             -- the identifier under a key of each of the two owners
  attached INTEGER NOT NULL,
  PRIMARY KEY (account, owner)
) WITHOUT ROWID;
CREATE INDEX identifiers_owner ON identifiers (owner);
-- A business may have several representatives; any other identifier is one person's.
CREATE UNIQUE INDEX identifiers_single ON identifiers (owner) WHERE type <> 'siren';

-- Checks of an identifier at the provider that holds it: as each is a disclosure, and may be a guess, they are counted.
CREATE TABLE identifier_checks (
  account BLOB    NOT NULL,
  at      INTEGER NOT NULL
);
CREATE INDEX identifier_checks_account ON identifier_checks (account, at);
CREATE INDEX identifier_checks_at ON identifier_checks (at);

-- +goose Down
DROP TABLE identifier_checks;
DROP TABLE identifiers;
DROP TABLE spent_sign_ins;
DROP TABLE sessions;
