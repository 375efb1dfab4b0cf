-- What Regard adds to Trillian's schema. All of it can be applied again.

-- Trillian checks three foreign keys and keeps two more indexes for every leaf. The keys serve the deletion of trees, which Regard never asks for; the indexes serve duplicates in logs that
-- choose the order themselves, and proofs by hash, which Regard gives from its tiles. Without them a batch of 512 takes a third of the time.
ALTER TABLE LeafData DROP CONSTRAINT IF EXISTS leafdata_treeid_fkey;

ALTER TABLE SequencedLeafData DROP CONSTRAINT IF EXISTS sequencedleafdata_treeid_fkey,
  DROP CONSTRAINT IF EXISTS sequencedleafdata_treeid_leafidentityhash_fkey;

DROP INDEX IF EXISTS SequencedLeafMerkleIdx, SequencedLeafIdentityIdx;

-- Trillian's function of that name answers the same, but it
-- - locks both tables in SHARE ROW EXCLUSIVE MODE, which neither VACUUM nor ANALYZE goes with: each stops the other, autovacuum is cancelled for ever under load, and the vacuum against
--   wraparound, which isn't, stops the log for as long as it takes. A lock that only adders take keeps them apart as well;
-- - looks for duplicates first, in joins that PostgreSQL plans without knowing how many leaves there are. Here they are looked for when there are some;
-- - waits for the disk. That isn't needed: the order in the broker's store is what counts, nothing is signed before the integration of the same leaves is durable, and that flushes what was
--   written before it.
CREATE OR REPLACE FUNCTION add_sequenced_leaves(
) RETURNS TABLE(leaf_identity_hash bytea, is_duplicate_leaf_data boolean, is_duplicate_sequenced_leaf_data boolean)
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM pg_advisory_xact_lock(hashtext('regard'), hashtext('add_sequenced_leaves'));
  FOR attempt IN 1..2 LOOP
    BEGIN
      INSERT INTO SequencedLeafData (TreeId,LeafIdentityHash,MerkleLeafHash,SequenceNumber,IntegrateTimestampNanos)
        SELECT TreeId,LeafIdentityHash,MerkleLeafHash,SequenceNumber,0
          FROM TempAddSequencedLeaves
          WHERE NOT IsDuplicateLeafData
            AND NOT IsDuplicateSequencedLeafData;
      INSERT INTO LeafData (TreeId,LeafIdentityHash,LeafValue,ExtraData,QueueTimestampNanos)
        SELECT TreeId,LeafIdentityHash,LeafValue,ExtraData,QueueTimestampNanos
          FROM TempAddSequencedLeaves
          WHERE NOT IsDuplicateLeafData
            AND NOT IsDuplicateSequencedLeafData;
      EXIT;
    EXCEPTION WHEN unique_violation THEN
      IF attempt = 2 THEN
        RAISE;
      END IF;
      UPDATE TempAddSequencedLeaves t
        SET IsDuplicateLeafData = EXISTS (SELECT FROM LeafData l WHERE l.TreeId = t.TreeId AND l.LeafIdentityHash = t.LeafIdentityHash),
          IsDuplicateSequencedLeafData = EXISTS (SELECT FROM SequencedLeafData s WHERE s.TreeId = t.TreeId AND s.SequenceNumber = t.SequenceNumber);
    END;
  END LOOP;
  RETURN QUERY SELECT LeafIdentityHash, IsDuplicateLeafData, IsDuplicateSequencedLeafData
    FROM TempAddSequencedLeaves;
END;
$$;

-- The same in one statement, for the log server of package signer: a temporary table for each batch costs more than a small batch itself. It returns the leaves that were there already, or
-- whose place is taken.
CREATE OR REPLACE FUNCTION regard_add(tree bigint, places bigint[], identities bytea[], leaves bytea[], extras bytea[], hashes bytea[], queued bigint)
RETURNS TABLE(place bigint, is_duplicate_leaf_data boolean, is_duplicate_sequenced_leaf_data boolean)
LANGUAGE plpgsql AS $$
DECLARE
  again bigint[] := '{}';
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM pg_advisory_xact_lock(hashtext('regard'), hashtext('add_sequenced_leaves'));
  FOR attempt IN 1..2 LOOP
    BEGIN
      INSERT INTO SequencedLeafData (TreeId,LeafIdentityHash,MerkleLeafHash,SequenceNumber,IntegrateTimestampNanos)
        SELECT tree, u.i, u.h, u.p, 0
          FROM unnest(places, identities, hashes) AS u(p, i, h)
          WHERE u.p <> ALL (again);
      INSERT INTO LeafData (TreeId,LeafIdentityHash,LeafValue,ExtraData,QueueTimestampNanos)
        SELECT tree, u.i, u.v, u.x, queued
          FROM unnest(places, identities, leaves, extras) AS u(p, i, v, x)
          WHERE u.p <> ALL (again);
      EXIT;
    EXCEPTION WHEN unique_violation THEN
      IF attempt = 2 THEN
        RAISE;
      END IF;
      RETURN QUERY SELECT u.p, u.l, u.s
        FROM (SELECT v.p,
            EXISTS (SELECT FROM LeafData l WHERE l.TreeId = tree AND l.LeafIdentityHash = v.i) AS l,
            EXISTS (SELECT FROM SequencedLeafData s WHERE s.TreeId = tree AND s.SequenceNumber = v.p) AS s
          FROM unnest(places, identities) AS v(p, i)) AS u
        WHERE u.l OR u.s;
      again := ARRAY(SELECT v.p FROM unnest(places, identities) AS v(p, i)
        WHERE EXISTS (SELECT FROM LeafData l WHERE l.TreeId = tree AND l.LeafIdentityHash = v.i)
          OR EXISTS (SELECT FROM SequencedLeafData s WHERE s.TreeId = tree AND s.SequenceNumber = v.p));
    END;
  END LOOP;
END;
$$;

-- Whoever waits for leaves or for a root needn't poll, whichever server wrote them. Nobody waits for what regard_grow writes, and all transactions of a server that notify wait for each other's
-- disk: so it doesn't.
CREATE OR REPLACE FUNCTION regard_added() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('regard_trillian', 'added');
  RETURN NULL;
END;
$$;

CREATE OR REPLACE TRIGGER regard_added AFTER INSERT ON SequencedLeafData
  FOR EACH STATEMENT WHEN (current_setting('regard.told', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION regard_added();

CREATE OR REPLACE FUNCTION regard_integrated() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('regard_trillian', 'integrated ' || NEW.TreeId || ' ' || NEW.TreeSize || ' ' || NEW.TreeHeadTimestamp || ' ' || encode(NEW.RootHash, 'hex'));
  RETURN NULL;
END;
$$;

CREATE OR REPLACE TRIGGER regard_integrated AFTER INSERT ON TreeHead
  FOR EACH ROW WHEN (current_setting('regard.told', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION regard_integrated();

-- What a batch changes in the tree, in one statement, if the tree is as the signer thinks.
CREATE OR REPLACE FUNCTION regard_integrate(tree bigint, old_size bigint, old_at bigint, ids bytea[], tiles bytea[], new_size bigint, new_at bigint, new_root bytea)
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM (SELECT TreeSize AS size, TreeHeadTimestamp AS at FROM TreeHead WHERE TreeId = tree ORDER BY TreeHeadTimestamp DESC LIMIT 1) AS latest
    WHERE latest.size = old_size AND latest.at = old_at;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'the latest root is not that of size % any more: another process grows this tree', old_size;
  END IF;
  INSERT INTO Subtree (TreeId,SubtreeId,Nodes)
    SELECT tree, u.i, u.n FROM unnest(ids, tiles) AS u(i, n)
    ON CONFLICT ON CONSTRAINT Subtree_pk DO UPDATE SET Nodes = EXCLUDED.Nodes;
  INSERT INTO TreeHead (TreeId,TreeHeadTimestamp,TreeSize,RootHash,RootSignature)
    VALUES (tree, new_at, new_size, new_root, '');
END;
$$;

-- Leaves and what they change in the tree, in one statement, for a log server whose process is the signer, too. Leaves that are there already, or whose place is taken, are an error
-- (unique_violation): regard_add says which.
CREATE OR REPLACE FUNCTION regard_grow(tree bigint, old_size bigint, old_at bigint, ids bytea[], tiles bytea[], new_size bigint, new_at bigint, new_root bytea,
  places bigint[], identities bytea[], leaves bytea[], extras bytea[], hashes bytea[], queued bigint)
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('regard.told', 'on', true);
  PERFORM pg_advisory_xact_lock(hashtext('regard'), hashtext('add_sequenced_leaves'));
  INSERT INTO SequencedLeafData (TreeId,LeafIdentityHash,MerkleLeafHash,SequenceNumber,IntegrateTimestampNanos)
    SELECT tree, u.i, u.h, u.p, 0
      FROM unnest(places, identities, hashes) AS u(p, i, h);
  INSERT INTO LeafData (TreeId,LeafIdentityHash,LeafValue,ExtraData,QueueTimestampNanos)
    SELECT tree, u.i, u.v, u.x, queued
      FROM unnest(identities, leaves, extras) AS u(i, v, x);
  PERFORM regard_integrate(tree, old_size, old_at, ids, tiles, new_size, new_at, new_root);
END;
$$;
