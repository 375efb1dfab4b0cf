-- +goose Up

-- Whose term somebody was shut out in: a leader whose term is over lets nobody in whom the next one keeps out.
ALTER TABLE erasing ADD COLUMN term BIGINT NOT NULL DEFAULT 0;

-- Whoever puts back a backup takes care that no number of a process is used again: see cluster.Alone.
GRANT SELECT, UPDATE ON SEQUENCE members_id_seq TO regard_broker;

-- Before PostgreSQL 15 everybody may create things here, and what runs as the owner (make_months and others) would take a function of this schema for one of PostgreSQL's own whose arguments it fits better.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- Tables rest_% are copies that wait to be attached: a later migration that changes records drops them first, and they are made anew.
--
-- The details of a month go in steps, each a transaction of its own: what stays of it is copied a part at a time, so none holds up the removal of dead rows in other tables, and one that fails costs its own work alone. Whether there
-- is anything to keep is looked for once, before the first. In the last step all others are kept out for an instant, as before.
DROP FUNCTION drop_detail(INTEGER, INTEGER);
-- +goose StatementBegin
CREATE FUNCTION drop_detail(ended INTEGER, header INTEGER, at_once INTEGER) RETURNS TABLE (copied BIGINT, done BOOLEAN) LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
  part text := format('records_%s', ended);
  rest text := format('rest_%s', ended);
  last bigint;
  kept boolean;
  total bigint;
BEGIN
  IF NOT pg_try_advisory_xact_lock(7306584040512978948) THEN -- one at a time
    RAISE EXCEPTION 'somebody else drops details' USING ERRCODE = 'lock_not_available';
  END IF;
  copied := 0;
  done := true;
  IF NOT EXISTS (SELECT FROM epochs e WHERE e.month = ended) OR EXISTS (SELECT FROM ended_months e WHERE e.month = ended) THEN
    RETURN;
  END IF;
  IF to_regclass(quote_ident(part)) IS NULL THEN
    INSERT INTO ended_months (month) VALUES (ended);
    RETURN;
  END IF;
  IF to_regclass(quote_ident(rest)) IS NULL THEN
    IF EXISTS (SELECT FROM epochs e WHERE e.closer IS NULL AND e.month <= ended) OR EXISTS (SELECT FROM records r WHERE r.month = ended AND length(r.person) > 0) THEN
      RAISE EXCEPTION 'records of the month % are still to be kept', ended USING ERRCODE = 'object_in_use';
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE records INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING INDEXES, CHECK (month = %s))', rest, ended);
  END IF;
  EXECUTE format('SELECT max(log_index) FROM %I', rest) INTO last;
  EXECUTE format('INSERT INTO %I (month, log_index, disclosure, position, owner, person, admin) SELECT month, log_index, disclosure, position, owner, person, substr(admin, 1, %s) FROM %I WHERE log_index > %s ORDER BY log_index LIMIT %s',
    rest, header, part, coalesce(last, -1), at_once);
  GET DIAGNOSTICS copied = ROW_COUNT;
  IF copied > 0 THEN
    done := false;
    RETURN NEXT;
    RETURN;
  END IF;
  -- Of a month whose epochs are closed nothing is stored any more, and a person part that was emptied stays empty: whatever else has happened, nothing is lost.
  EXECUTE format('SELECT count(*) FROM %I', rest) INTO copied;
  EXECUTE format('SELECT count(*), coalesce(bool_or(length(person) > 0), false) FROM %I', part) INTO total, kept;
  IF kept OR copied <> total THEN
    EXECUTE format('DROP TABLE %I', rest);
    done := false;
    RETURN NEXT;
    RETURN;
  END IF;
  FOR i IN 1..20 LOOP
    BEGIN
      LOCK TABLE ONLY records IN ACCESS EXCLUSIVE MODE;
      EXECUTE format('DROP TABLE %I', part);
      EXECUTE format('ALTER TABLE %I RENAME TO %I', rest, part);
      EXECUTE format('ALTER TABLE records ATTACH PARTITION %I FOR VALUES IN (%s)', part, ended);
      INSERT INTO ended_months (month) VALUES (ended);
      RETURN NEXT;
      RETURN;
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
      PERFORM pg_sleep(1);
    END;
  END LOOP;
  RAISE EXCEPTION 'the records are being read all the time' USING ERRCODE = 'lock_not_available';
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION drop_detail(INTEGER, INTEGER, INTEGER) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION drop_detail(INTEGER, INTEGER, INTEGER) TO regard_keeper;
