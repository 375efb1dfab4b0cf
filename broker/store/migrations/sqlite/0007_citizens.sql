-- +goose Up

-- Role addresses of agencies, for contests. They are no secret and not in the log.
ALTER TABLE agencies ADD COLUMN contact TEXT NOT NULL DEFAULT '';
ALTER TABLE agencies ADD COLUMN dpo TEXT NOT NULL DEFAULT '';

-- Somebody who has signed in, by the pseudonym of their pivot identity, and how they want to be told. Addresses are sealed under a key of the account's.
CREATE TABLE citizens (
  account       BLOB    PRIMARY KEY,
  lang          TEXT    NOT NULL,        -- fr, en
  page          INTEGER NOT NULL,        -- kinds of notices that are shown, as bits
  mail          INTEGER NOT NULL,        -- kinds that are sent
  address       BLOB,                    -- confirmed
  unsubscribe   BLOB    UNIQUE,          -- 16 random bytes, with address
  failures      INTEGER NOT NULL DEFAULT 0, -- of the address, for good, one after the other
  pending       BLOB,                    -- address that waits for its confirmation
  confirm       BLOB    UNIQUE,          -- 16 random bytes, with pending
  confirm_until INTEGER,
  confirms      INTEGER NOT NULL DEFAULT 0, -- how many were asked for since confirms_at
  confirms_at   INTEGER NOT NULL DEFAULT 0,
  digest_due    INTEGER,                 -- null: nothing has come
  digest_at     INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX citizens_digest ON citizens (digest_due) WHERE digest_due IS NOT NULL;

-- Under which identifiers an account is told of new entries, from a log index on.
CREATE TABLE watches (
  owner   BLOB    NOT NULL,
  account BLOB    NOT NULL,
  type    TEXT    NOT NULL,              -- of the identifier
  since   INTEGER NOT NULL,
  PRIMARY KEY (owner, account)
) WITHOUT ROWID;
CREATE INDEX watches_account ON watches (account);

CREATE TABLE notices (
  id        INTEGER PRIMARY KEY AUTOINCREMENT,
  account   BLOB    NOT NULL,
  kind      TEXT    NOT NULL,
  event     TEXT    NOT NULL,
  at        INTEGER NOT NULL,
  log_index INTEGER,
  ref       BLOB,                        -- of the disclosure, contest, request or delegation
  count     INTEGER NOT NULL,
  read_at   INTEGER
);
CREATE INDEX notices_account ON notices (account, id);
CREATE INDEX notices_ref ON notices (account, ref) WHERE ref IS NOT NULL;

-- Mails that are to be sent. A row names to whom, never an address.
CREATE TABLE outbox (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  kind    TEXT    NOT NULL,
  account BLOB,                          -- or
  agency  TEXT,
  role    TEXT    NOT NULL DEFAULT '',   -- of the agency's address: contact, dpo
  ref     BLOB,
  created INTEGER NOT NULL,
  due     INTEGER NOT NULL,
  tries   INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX outbox_due ON outbox (due);
CREATE INDEX outbox_ref ON outbox (ref) WHERE ref IS NOT NULL;
CREATE UNIQUE INDEX outbox_account ON outbox (account, kind) WHERE account IS NOT NULL;

-- A contest of a disclosure. text, answer and extension are sealed under a key of owner's, the identifier under which the entry is filed; both pseudonyms and the three are emptied by an erasure.
CREATE TABLE contests (
  id           BLOB    PRIMARY KEY,      -- UUIDv7
  account      BLOB    NOT NULL,
  owner        BLOB    NOT NULL,
  disclosure   BLOB    NOT NULL,         -- disclosures.id
  agency       TEXT    NOT NULL,
  role         TEXT    NOT NULL,         -- of the record: asked, answer
  namesake     INTEGER NOT NULL,         -- filed by names and birth date alone
  lang         TEXT    NOT NULL,
  body         BLOB,                     -- keyed digest of the text
  text         BLOB    NOT NULL,
  state        TEXT    NOT NULL,         -- open, answered, withdrawn
  filed        INTEGER NOT NULL,
  due          INTEGER NOT NULL,
  acknowledged INTEGER,
  extended     INTEGER,
  extension    BLOB    NOT NULL DEFAULT x'',
  answered     INTEGER,                  -- or withdrawn
  outcome      TEXT    NOT NULL DEFAULT '',
  reply        BLOB,                     -- keyed digest of the answer
  answer       BLOB    NOT NULL DEFAULT x'',
  reminded     INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX contests_agency ON contests (agency, id);
CREATE INDEX contests_account ON contests (account, id);
CREATE INDEX contests_owner ON contests (owner);
CREATE INDEX contests_open ON contests (due) WHERE state = 'open';
CREATE INDEX contests_ended ON contests (answered) WHERE answered IS NOT NULL;
CREATE UNIQUE INDEX contests_one ON contests (account, disclosure) WHERE state = 'open';

-- A person's request to erase one identifier; those with the same request were made together. subject is sealed under a key of owner's.
CREATE TABLE erasure_requests (
  id        BLOB    PRIMARY KEY,
  request   BLOB    NOT NULL,
  account   BLOB    NOT NULL,
  owner     BLOB    NOT NULL,
  type      TEXT    NOT NULL,            -- of the subject
  subject   BLOB    NOT NULL,            -- empty unless waiting
  ground    TEXT    NOT NULL,
  asked     INTEGER NOT NULL,
  due       INTEGER NOT NULL,
  look      INTEGER NOT NULL,            -- when it is looked at; later than due if something blocks it
  state     TEXT    NOT NULL,            -- waiting, undone, done
  blocked   TEXT    NOT NULL DEFAULT '', -- by a hold, a contest
  announced INTEGER,                     -- when the person was told that it begins
  ended     INTEGER,
  log_index INTEGER                      -- of the erasure@v1 entry
) WITHOUT ROWID;
CREATE INDEX erasure_requests_account ON erasure_requests (account, request);
CREATE INDEX erasure_requests_look ON erasure_requests (look) WHERE state = 'waiting';
CREATE INDEX erasure_requests_ended ON erasure_requests (ended) WHERE ended IS NOT NULL;
CREATE UNIQUE INDEX erasure_requests_one ON erasure_requests (owner, account) WHERE state = 'waiting';

-- What keeps an identifier from being erased. sealed, under a key of owner's, says on which legal basis and by whose reference. Nothing of it is in the log.
CREATE TABLE holds (
  id     BLOB    NOT NULL,
  owner  BLOB    NOT NULL,
  sealed BLOB    NOT NULL,
  since  INTEGER NOT NULL,
  until  INTEGER,                        -- null: until it is removed
  PRIMARY KEY (id, owner)
) WITHOUT ROWID;
CREATE INDEX holds_owner ON holds (owner);

-- Who may read whose history. delegate is the pseudonym of their account; each identifier that they may read is a row of delegated, sealed under a key of its owner's.
CREATE TABLE delegations (
  id       BLOB    PRIMARY KEY,
  delegate BLOB    NOT NULL,
  kind     TEXT    NOT NULL,             -- guardian, representative
  granted  INTEGER NOT NULL,
  since    INTEGER NOT NULL,
  until    INTEGER,
  ended    INTEGER,
  ended_by TEXT    NOT NULL DEFAULT ''   -- delegate, person, operator, restored
) WITHOUT ROWID;
CREATE INDEX delegations_delegate ON delegations (delegate);

CREATE TABLE delegated (
  delegation BLOB NOT NULL REFERENCES delegations (id),
  owner      BLOB NOT NULL,
  sealed     BLOB NOT NULL,
  PRIMARY KEY (delegation, owner)
) WITHOUT ROWID;
CREATE INDEX delegated_owner ON delegated (owner);

-- +goose Down
DROP TABLE delegated;
DROP TABLE delegations;
DROP TABLE holds;
DROP TABLE erasure_requests;
DROP TABLE contests;
DROP TABLE outbox;
DROP TABLE notices;
DROP TABLE watches;
DROP TABLE citizens;
ALTER TABLE agencies DROP COLUMN dpo;
ALTER TABLE agencies DROP COLUMN contact;
