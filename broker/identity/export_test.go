package identity

import "net/http"

// SessionOf is the session of a token.
func (s *Service) SessionOf(token string) (*Session, error) {
	r, err := http.NewRequest(http.MethodGet, "/", nil)
	if err != nil {
		return nil, err
	}
	r.AddCookie(&http.Cookie{Name: cookieSession, Value: token})
	return s.load(r)
}

// Again has whoever is signed in show who they are, however lately they did.
func (s *Service) Again() http.Handler {
	return s.Require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sess, _ := From(r.Context())
		s.begin(w, r, "/moi", sess.Account)
	}))
}
