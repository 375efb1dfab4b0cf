-- +goose Up

-- The details of a month go beside everybody, however long the copying takes. It is the only one that waits: the indexes are made before all others are kept out, which is for an instant, and it asks for that instant again and again,
-- for a fifth of a second each time, behind which others wait; whoever makes the next months doesn't wait for it at all. Nothing is locked against a change of the old table: of a month whose epochs are closed nothing is
-- stored any more, and a person part that was emptied stays empty.
-- A month that drop_month has dropped has no details left, either.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION drop_detail(ended INTEGER, header INTEGER) RETURNS BIGINT LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
  part text := format('records_%s', ended);
  rest text := format('rest_%s', ended);
  n bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(7306584040512978948); -- one at a time
  IF NOT EXISTS (SELECT FROM epochs e WHERE e.month = ended) OR EXISTS (SELECT FROM ended_months e WHERE e.month = ended) THEN
    RETURN NULL;
  END IF;
  IF EXISTS (SELECT FROM epochs e WHERE e.closer IS NULL AND e.month <= ended) OR EXISTS (SELECT FROM records r WHERE r.month = ended AND length(r.person) > 0) THEN
    RAISE EXCEPTION 'records of the month % are still to be kept', ended USING ERRCODE = 'object_in_use';
  END IF;
  IF to_regclass(quote_ident(part)) IS NULL THEN
    INSERT INTO ended_months (month) VALUES (ended);
    RETURN NULL;
  END IF;
  EXECUTE format('CREATE TABLE %I (LIKE records INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING INDEXES, CHECK (month = %s))', rest, ended);
  EXECUTE format('INSERT INTO %I (month, log_index, disclosure, position, owner, person, admin) SELECT month, log_index, disclosure, position, owner, person, substr(admin, 1, %s) FROM %I', rest, header, part);
  GET DIAGNOSTICS n = ROW_COUNT;
  FOR i IN 1..20 LOOP
    BEGIN
      LOCK TABLE ONLY records IN ACCESS EXCLUSIVE MODE;
      EXECUTE format('DROP TABLE %I', part);
      EXECUTE format('ALTER TABLE %I RENAME TO %I', rest, part);
      EXECUTE format('ALTER TABLE records ATTACH PARTITION %I FOR VALUES IN (%s)', part, ended);
      INSERT INTO ended_months (month) VALUES (ended);
      RETURN n;
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
      PERFORM pg_sleep(1);
    END;
  END LOOP;
  RAISE EXCEPTION 'the records are being read all the time' USING ERRCODE = 'lock_not_available';
END $$;
-- +goose StatementEnd

-- +goose Down
SELECT 'what drop_detail leaves is the same as before';
