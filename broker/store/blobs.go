package store

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"github.com/jackc/pgx/v5/pgtype"
)

// blobArrays writes columns of blobs, which are nearly all that a batch is, into memory that is as large as they are: pgx's own codec grows it piece by piece, and copies what is there each time.
type blobArrays struct{ *pgtype.ArrayCodec }

// sendBlobs has a connection's columns of blobs written so.
func sendBlobs(m *pgtype.Map) error {
	t, ok := m.TypeForOID(pgtype.ByteaArrayOID)
	if !ok {
		return errors.New("store: pgx knows no arrays of bytea")
	}
	c, ok := t.Codec.(*pgtype.ArrayCodec)
	if !ok {
		return errors.New("store: pgx has another codec for arrays of bytea")
	}
	m.RegisterType(&pgtype.Type{Name: t.Name, OID: t.OID, Codec: blobArrays{c}})
	return nil
}

// PlanEncode implements pgtype.Codec.
func (c blobArrays) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.([][]byte); ok && format == pgtype.BinaryFormatCode {
		return encodeBlobs{}
	}
	return c.ArrayCodec.PlanEncode(m, oid, format, value)
}

type encodeBlobs struct{}

// Encode implements pgtype.EncodePlan: array_send of PostgreSQL, one dimension. nil is NULL.
func (encodeBlobs) Encode(value any, buf []byte) ([]byte, error) {
	blobs, ok := value.([][]byte)
	if !ok {
		return nil, errors.New("store: no column of blobs")
	}
	size, nulls := 20, uint32(0)
	for _, b := range blobs {
		if size += 4 + len(b); b == nil {
			nulls = 1
		}
	}
	if size > math.MaxInt32 {
		return nil, errors.New("store: a column of more than 2 GiB")
	}
	buf = slices.Grow(buf, size)
	buf = binary.BigEndian.AppendUint32(buf, 1) // dimension
	buf = binary.BigEndian.AppendUint32(buf, nulls)
	buf = binary.BigEndian.AppendUint32(buf, pgtype.ByteaOID)
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(blobs))) // #nosec G115 -- less than size
	buf = binary.BigEndian.AppendUint32(buf, 1)                  // the first index
	for _, b := range blobs {
		if b == nil {
			buf = binary.BigEndian.AppendUint32(buf, math.MaxUint32)
			continue
		}
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(b))) // #nosec G115 -- less than size
		buf = append(buf, b...)
	}
	return buf, nil
}
