package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// users has one, whom nobody could take for somebody real.
type users struct{}

var user = storage.User{ID: "id1", Username: "camille", Password: "verysecure", FirstName: "Camille Inès", LastName: "EXEMPLE ALPHA"}

func (users) GetUserByID(id string) *storage.User {
	if id != user.ID {
		return nil
	}
	return &user
}

func (users) GetUserByUsername(name string) *storage.User {
	if name != user.Username {
		return nil
	}
	return &user
}

func (users) ExampleClientID() string { return "service" }

// store is the example's, but for what a pivot identity needs.
type store struct {
	*storage.Storage
	logout string
}

// request vouches at a level; the example's doesn't.
type request struct{ *storage.AuthRequest }

func (request) GetACR() string { return "eidas2" }

func wrap(r op.AuthRequest, err error) (op.AuthRequest, error) {
	if plain, ok := r.(*storage.AuthRequest); ok && err == nil {
		return request{plain}, nil
	}
	return r, err
}

func (s *store) CreateAuthRequest(ctx context.Context, r *oidc.AuthRequest, id string) (op.AuthRequest, error) {
	return wrap(s.Storage.CreateAuthRequest(ctx, r, id))
}

func (s *store) AuthRequestByID(ctx context.Context, id string) (op.AuthRequest, error) {
	return wrap(s.Storage.AuthRequestByID(ctx, id))
}

func (s *store) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	return wrap(s.Storage.AuthRequestByCode(ctx, code))
}

// CreateAccessToken looks at the type of the request.
func (s *store) CreateAccessToken(ctx context.Context, r op.TokenRequest) (string, time.Time, error) {
	if x, ok := r.(request); ok {
		r = x.AuthRequest
	}
	return s.Storage.CreateAccessToken(ctx, r)
}

func (s *store) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, token, subject, origin string) error {
	if err := s.Storage.SetUserinfoFromToken(ctx, info, token, subject, origin); err != nil {
		return err
	}
	info.Birthdate, info.Gender = "1984-03-14", "female"
	info.AppendClaims("birthplace", "75107")
	info.AppendClaims("birthcountry", "99100")
	return nil
}

// client has an address for after signing out; the example's has none.
type client struct {
	op.Client
	logout string
}

func (c client) PostLogoutRedirectURIs() []string { return []string{c.logout} }

func (s *store) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := s.Storage.GetClientByClientID(ctx, id)
	return client{c, s.logout}, err
}

func provider(issuer, id, secret, redirect, logout string) http.Handler {
	s := &store{storage.NewStorageWithClients(users{}, map[string]*storage.Client{id: storage.WebClient(id, secret, redirect)}), logout}
	router := exampleop.SetupServer(issuer, s, nil, false)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/userinfo" {
			router.ServeHTTP(w, r)
			return
		}
		rec := &recorder{header: http.Header{}, status: http.StatusOK}
		router.ServeHTTP(rec, r)
		if rec.status == http.StatusOK {
			text, err := s.sign(r.Context(), issuer, id, rec.body.Bytes())
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			rec.header.Set("Content-Type", "application/jwt")
			rec.body = *bytes.NewBufferString(text)
		}
		rec.header.Set("Content-Length", strconv.Itoa(rec.body.Len()))
		for k, v := range rec.header {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.status)
		_, _ = w.Write(rec.body.Bytes())
	})
}

// sign makes a userinfo of OpenID Connect Core 1.0, section 5.3.2, with the key of ID tokens.
func (s *store) sign(ctx context.Context, issuer, audience string, plain []byte) (string, error) {
	var claims map[string]any
	if err := json.Unmarshal(plain, &claims); err != nil {
		return "", err
	}
	now := time.Now()
	claims["iss"], claims["aud"], claims["iat"], claims["exp"] = issuer, audience, now.Unix(), now.Add(time.Minute).Unix()
	key, err := s.SigningKey(ctx)
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: key.SignatureAlgorithm(), Key: jose.JSONWebKey{Key: key.Key(), KeyID: key.ID()}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	jws, err := signer.Sign(b)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
