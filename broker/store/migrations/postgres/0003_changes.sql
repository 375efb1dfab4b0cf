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

-- Months whose details are gone from the disk.
CREATE TABLE ended_months (
  month INTEGER PRIMARY KEY,
  at    TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);

-- drop_month took whole records away: histories would have denied that there had been any. drop_detail leaves whose they are, where they stand, and the name of the key that sealed them, which is in the first bytes of
-- their administrative part: the log says of it that the retention has ended. Their table is dropped, and with it all the rest, at once. It returns how many there are; null if there is no such month, or its
-- details are gone already. Who reads goes on meanwhile, but for an instant.
DROP FUNCTION drop_month(INTEGER);
-- +goose StatementBegin
CREATE FUNCTION drop_detail(ended INTEGER, header INTEGER) RETURNS BIGINT LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '3s' AS $$
DECLARE
  part text := format('records_%s', ended);
  rest text := format('rest_%s', ended);
  kept boolean;
  n bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(7306584040512978947); -- one at a time, as make_months
  IF to_regclass(quote_ident(part)) IS NULL OR EXISTS (SELECT FROM ended_months e WHERE e.month = ended) THEN
    RETURN NULL;
  END IF;
  EXECUTE format('LOCK TABLE %I IN SHARE MODE', part);
  EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE length(person) > 0) OR EXISTS (SELECT FROM epochs e WHERE e.closer IS NULL AND e.month <= %s)', part, ended) INTO kept;
  IF kept THEN
    RAISE EXCEPTION 'records of the month % are still to be kept', ended USING ERRCODE = 'object_in_use';
  END IF;
  EXECUTE format('CREATE TABLE %I (LIKE records INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE, CHECK (month = %s))', rest, ended);
  EXECUTE format('INSERT INTO %I (month, log_index, disclosure, position, owner, person, admin) SELECT month, log_index, disclosure, position, owner, person, substr(admin, 1, %s) FROM %I', rest, header, part);
  GET DIAGNOSTICS n = ROW_COUNT;
  EXECUTE format('DROP TABLE %I', part);
  EXECUTE format('ALTER TABLE %I RENAME TO %I', rest, part);
  EXECUTE format('ALTER TABLE records ATTACH PARTITION %I FOR VALUES IN (%s)', part, ended);
  INSERT INTO ended_months (month) VALUES (ended);
  RETURN n;
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION drop_detail(INTEGER, INTEGER) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION drop_detail(INTEGER, INTEGER) TO regard_keeper;
GRANT SELECT ON ended_months TO regard_broker, regard_keeper;

GRANT SELECT, INSERT, UPDATE, DELETE ON erasing TO regard_broker, regard_keeper;
GRANT SELECT, UPDATE (number) ON changes TO regard_broker, regard_keeper;

-- +goose Down
ALTER TABLE members DROP COLUMN landed;
DROP TABLE changes;
DROP TABLE erasing;
