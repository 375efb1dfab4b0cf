-- What Regard adds to Trillian's schema. All of it can be applied again.

-- As Trillian's, but for three lines. Trillian's locks both tables in SHARE ROW EXCLUSIVE MODE, which neither VACUUM nor
-- ANALYZE goes with: each stops the other, autovacuum is cancelled for ever under load, and the vacuum against
-- wraparound, which isn't, stops the log for as long as it takes. A lock that only adders take keeps them apart as well.
-- And adding needn't reach the disk by itself: the order in the broker's store is what counts, nothing is signed before
-- the integration of the same leaves is durable, and that flushes what was written before it.
CREATE OR REPLACE FUNCTION add_sequenced_leaves(
) RETURNS TABLE(leaf_identity_hash bytea, is_duplicate_leaf_data boolean, is_duplicate_sequenced_leaf_data boolean)
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM pg_advisory_xact_lock(hashtext('regard'), hashtext('add_sequenced_leaves'));
  UPDATE TempAddSequencedLeaves t
    SET IsDuplicateLeafData = TRUE
    FROM LeafData l
    WHERE t.TreeId = l.TreeId
      AND t.LeafIdentityHash = l.LeafIdentityHash;
  UPDATE TempAddSequencedLeaves t
    SET IsDuplicateSequencedLeafData = TRUE
    FROM SequencedLeafData s
    WHERE t.TreeId = s.TreeId
      AND t.SequenceNumber = s.SequenceNumber;
  INSERT INTO LeafData (TreeId,LeafIdentityHash,LeafValue,ExtraData,QueueTimestampNanos)
    SELECT TreeId,LeafIdentityHash,LeafValue,ExtraData,QueueTimestampNanos
      FROM TempAddSequencedLeaves
      WHERE NOT IsDuplicateLeafData
        AND NOT IsDuplicateSequencedLeafData;
  INSERT INTO SequencedLeafData (TreeId,LeafIdentityHash,MerkleLeafHash,SequenceNumber,IntegrateTimestampNanos)
    SELECT TreeId,LeafIdentityHash,MerkleLeafHash,SequenceNumber,0
      FROM TempAddSequencedLeaves
      WHERE NOT IsDuplicateLeafData
        AND NOT IsDuplicateSequencedLeafData;
  RETURN QUERY SELECT LeafIdentityHash, IsDuplicateLeafData, IsDuplicateSequencedLeafData
    FROM TempAddSequencedLeaves;
END;
$$;

-- Whoever waits for leaves or for a root needn't poll, whichever server wrote them.
CREATE OR REPLACE FUNCTION regard_added() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('regard_trillian', 'added');
  RETURN NULL;
END;
$$;

CREATE OR REPLACE TRIGGER regard_added AFTER INSERT ON SequencedLeafData
  FOR EACH STATEMENT EXECUTE FUNCTION regard_added();

CREATE OR REPLACE FUNCTION regard_integrated() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('regard_trillian', 'integrated ' || NEW.TreeId || ' ' || NEW.TreeSize);
  RETURN NULL;
END;
$$;

CREATE OR REPLACE TRIGGER regard_integrated AFTER INSERT ON TreeHead
  FOR EACH ROW EXECUTE FUNCTION regard_integrated();
