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
