-- +goose Up

-- A record lies in one piece, as an intent does: out of line its administrative part is two rows more, and two entries of an index.
-- +goose StatementBegin
DO $$
DECLARE
  part regclass;
BEGIN
  FOR part IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'records'::regclass LOOP
    EXECUTE format('ALTER TABLE %s SET (toast_tuple_target = 8160)', part);
  END LOOP;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION make_months(month INTEGER) RETURNS VOID LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  part text;
  parent text;
BEGIN
  PERFORM pg_advisory_xact_lock(7306584040512978947); -- one at a time
  FOR i IN 0..2 LOOP
    FOREACH parent IN ARRAY ARRAY['leaves', 'records'] LOOP
      part := format('%s_%s', parent, month);
      IF to_regclass(quote_ident(part)) IS NULL THEN
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE, CHECK (month = %s))', part, parent, month);
        IF parent = 'records' THEN
          EXECUTE format('ALTER TABLE %I SET (toast_tuple_target = 8160)', part);
        END IF;
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES IN (%s)', parent, part, month);
      END IF;
    END LOOP;
    month := CASE WHEN month % 100 = 12 THEN month + 89 ELSE month + 1 END;
  END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
SELECT 'records stay where they are';
