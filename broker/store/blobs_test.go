package store

import (
	"bytes"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
)

// TestBlobArrays: columns of blobs are written as pgx writes them, and take no more memory than they need.
func TestBlobArrays(t *testing.T) {
	theirs, ours := pgtype.NewMap(), pgtype.NewMap()
	if err := sendBlobs(ours); err != nil {
		t.Fatal(err)
	}
	large := bytes.Repeat([]byte("x"), 5000)
	for _, blobs := range [][][]byte{{}, {{}}, {nil}, {[]byte("a")}, {nil, []byte("a"), {}, large}} {
		before := []byte("what was written before")
		want, err := theirs.Encode(pgtype.ByteaArrayOID, pgtype.BinaryFormatCode, blobs, bytes.Clone(before))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ours.Encode(pgtype.ByteaArrayOID, pgtype.BinaryFormatCode, blobs, bytes.Clone(before))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d blobs: %x, %v; want %x", len(blobs), got, err, want)
		}
		var back [][]byte
		if err := ours.Scan(pgtype.ByteaArrayOID, pgtype.BinaryFormatCode, got[len(before):], &back); err != nil || len(back) != len(blobs) {
			t.Errorf("%d blobs: %d come back, %v", len(blobs), len(back), err)
		}
	}
	many := slices.Repeat([][]byte{large}, 64)
	if got := testing.AllocsPerRun(10, func() {
		if _, err := ours.Encode(pgtype.ByteaArrayOID, pgtype.BinaryFormatCode, many, nil); err != nil {
			t.Fatal(err)
		}
	}); got > 4 {
		t.Errorf("%.0f allocations", got)
	}
}
