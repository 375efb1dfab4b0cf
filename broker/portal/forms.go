package portal

import (
	"errors"
	"net/http"

	"github.com/regard-broker/regard/broker"
)

// maxForm bounds what a form sends, in bytes.
const maxForm = 64 << 10

// errForm is a form that can't be read: too long, or not of a form of these pages.
func errForm(err error) error {
	status := http.StatusBadRequest
	if long := (*http.MaxBytesError)(nil); errors.As(err, &long) {
		status = http.StatusRequestEntityTooLarge
	}
	return &broker.Problem{Status: status, Code: "form.wrong"}
}

// posted reads a form before something is changed, and refuses one that isn't this session's: whatever sessions are in use, a forgotten check must not open this.
func (p *Portal) posted(h handler) handler {
	return func(r *request) error {
		r.Body = http.MaxBytesReader(r.w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			return errForm(err)
		}
		if s := r.session; s != nil && !s.Forms.Made(r.PostForm.Get("csrf")) {
			p.Tell(r.w, r.Request, Notice{Code: "forged", Status: http.StatusForbidden})
			return nil
		}
		return h(r)
	}
}

// done leaves a message and shows where it can be seen what was done.
func (r *request) done(message, path string) error {
	r.p.leaveMessage(r.w, message)
	r.seeOther(path)
	return nil
}
