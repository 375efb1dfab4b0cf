package hostile

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Answer is what a witness said to a checkpoint.
type Answer struct {
	Status int
	Body   []byte // its cosignature lines if Status is 200
}

// AskWitness has a witness cosign the tree of the first size entries, by c2sp.org/tlog-witness: it claims that the witness last saw the tree of old entries, whether that
// is true or not.
func (o *Operator) AskWitness(ctx context.Context, url string, old, size uint64) (Answer, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "old %d\n", old)
	for _, h := range o.log.consistency(old, size) {
		fmt.Fprintf(&b, "%s\n", h)
	}
	b.WriteByte('\n')
	b.Write(o.Signed(size))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(url, "/")+"/add-checkpoint", strings.NewReader(b.String()))
	if err != nil {
		return Answer{}, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return Answer{}, fmt.Errorf("asking a witness: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return Answer{}, fmt.Errorf("asking a witness: %w", err)
	}
	return Answer{res.StatusCode, bytes.Clone(body)}, nil
}
