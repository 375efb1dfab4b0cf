package api

import (
	"context"
	"crypto/x509"
	"slices"
	"strings"
	"testing"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
)

// slowHolders answers when it is told to.
type slowHolders struct {
	Holders
	begun, end chan struct{}
}

func (s *slowHolders) ProviderReceipts(context.Context, []string, []store.ID) ([]broker.Receipts, error) {
	s.begun <- struct{}{}
	<-s.end
	return nil, nil
}

func (s *slowHolders) IntentProofs(context.Context) ([]broker.KeyProof, error) { return nil, nil }

// TestFetchesAtOnce: more than so many calls are told to come again, and each place is given back.
func TestFetchesAtOnce(t *testing.T) {
	slow := &slowHolders{begun: make(chan struct{}), end: make(chan struct{})}
	f := &fetching{slow, make(chan struct{}, 2)}
	done := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := f.ProviderReceipts(t.Context(), nil, nil)
			done <- err
		}()
		<-slow.begun
	}
	busy := func(err error) bool { return err != nil && broker.AsProblem(err).Code == "busy" }
	if _, err := f.ProviderReceipts(t.Context(), nil, nil); !busy(err) {
		t.Errorf("a third: %v", err)
	}
	if _, err := f.IntentProofs(t.Context()); !busy(err) {
		t.Errorf("the keys: %v", err)
	}
	close(slow.end)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if _, err := f.IntentProofs(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// holding is a broker with a provider, whoever asks; it has no receipts.
type holding struct {
	*fake
	Holders
	asked []store.ID
}

func (*holding) AuthenticateProvider(*x509.Certificate) ([]string, error) {
	return []string{"caisse"}, nil
}

func (h *holding) ProviderReceipts(_ context.Context, _ []string, ids []store.ID) ([]broker.Receipts, error) {
	h.asked = ids
	return make([]broker.Receipts, len(ids)), nil
}

// TestReceiptsBody: what encoding/json makes something of isn't taken: names in another case, the last of two equal ones, broken UTF-8, nothing in the place of an id.
func TestReceiptsBody(t *testing.T) {
	h := &holding{}
	s := start(t, func(c *Config) { h.fake = c.Broker.(*fake); c.Broker = h })
	c := s.client(s.mine)
	good := formatID(answerID)
	for name, x := range map[string]struct {
		body string
		code string // empty: it is taken
	}{
		"one":                    {`{"ids":["` + good + `"]}`, ""},
		"spaces and escapes":     {" {\t\"i\\u0064s\" : [\n\"" + good + "\" ] } ", ""},
		"as many as may be":      {`{"ids":["` + strings.Repeat(good+`","`, maxIDs-1) + good + `"]}`, ""},
		"one more":               {`{"ids":["` + strings.Repeat(good+`","`, maxIDs) + good + `"]}`, "request.invalid"},
		"none":                   {`{"ids":[]}`, "request.invalid"},
		"no member":              {`{}`, "request.invalid"},
		"no id":                  {`{"ids":["` + strings.ToUpper(good) + `"]}`, "request.invalid"},
		"another case":           {`{"IDS":["` + good + `"]}`, "request.json.invalid"},
		"twice":                  {`{"ids":["` + good + `"],"ids":["` + good + `"]}`, "request.json.invalid"},
		"twice, the other first": {`{"Ids":[],"ids":["` + good + `"]}`, "request.json.invalid"},
		"broken UTF-8":           {"{\"ids\":[\"" + good + "\",\"\xff\"]}", "request.json.invalid"},
		"broken UTF-8 in a name": {"{\"ids\xff\":[\"" + good + "\"]}", "request.json.invalid"},
		"half a character":       {`{"ids":["` + good + `","\ud800"]}`, "request.json.invalid"},
		"null":                   {`{"ids":null}`, "request.json.invalid"},
		"null for an id":         {`{"ids":["` + good + `",null]}`, "request.json.invalid"},
		"a list":                 {`["` + good + `"]`, "request.json.invalid"},
		"more behind":            {`{"ids":["` + good + `"]} x`, "request.json.invalid"},
		"nothing":                {``, "request.json.invalid"},
	} {
		h.asked = nil
		r := s.do(t, c, "POST", "/v1/provider/receipts", x.body)
		if x.code != "" {
			if r.status != 400 || !strings.Contains(r.body, `"code":"`+x.code+`"`) || h.asked != nil {
				t.Errorf("%s: %d %s, asked for %d", name, r.status, r.body, len(h.asked))
			}
			continue
		}
		if r.status != 200 || len(h.asked) == 0 || slices.ContainsFunc(h.asked, func(id store.ID) bool { return id != answerID }) {
			t.Errorf("%s: %d %s, asked for %d", name, r.status, r.body, len(h.asked))
		}
	}
}
