// Package browsertest opens pages in a real browser, Debian's Chromium, for tests.
//
// What it guarantees. A test fails if its page writes an error or a warning to the console, throws, violates its content security policy, or asks any other host
// than that of the test: that is looked at when the test ends, whatever else it asserts. Of a test that failed there is a picture of the page. Nothing waits for a time: [Page.Wait] waits for a state, for a minute.
//
// What it doesn't. It is no tool to measure with under load, and says nothing about other browsers.
package browsertest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// deadline is how long a state is waited for.
const deadline = time.Minute

// Page is a tab of a browser of its own, with no history and no cookies.
type Page struct {
	// Context runs actions of chromedp.
	Context context.Context

	tb      testing.TB
	mu      sync.Mutex
	hosts   []string
	faults  []string
	allowed []string
}

// Open starts a browser that may ask the hosts of these addresses and nobody else. Without Chromium the test is skipped, but for continuous integration.
func Open(tb testing.TB, origins ...string) *Page {
	tb.Helper()
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		missing(tb, "chromium is not installed (make test installs it)")
	}
	p := &Page{tb: tb}
	for _, o := range origins {
		u, err := url.Parse(o)
		if err != nil {
			tb.Fatal(err)
		}
		p.hosts = append(p.hosts, u.Host)
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(chromium), chromedp.WindowSize(1280, 900), chromedp.WSURLReadTimeout(deadline),
		// Workers ask by themselves, and are not seen by the page's events: names other than this machine's lead nowhere.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	tb.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(ctx, chromedp.WithListener(p.listen))
	tb.Cleanup(func() {
		// Its answer comes after all that happened before.
		_, _ = chromedp.Run(ctx, chromedp.Evaluate[int]("0"))
		if tb.Failed() {
			p.picture()
		}
		cancel()
		for _, f := range p.Faults() {
			if !slices.ContainsFunc(p.allowed, func(a string) bool { return strings.Contains(f, a) }) {
				tb.Error("browser: " + f)
			}
		}
	})
	p.Context = ctx
	// The browser ends with the context that starts it, so that has no deadline.
	if err := chromedp.Do(ctx); err != nil {
		tb.Fatal("starting the browser: ", err)
	}
	if _, err := chromedp.Call(ctx, audits.Enable, cdp.Empty{}); err != nil {
		tb.Fatal(err)
	}
	return p
}

// missing ends a test for which something isn't there.
func missing(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatal(what)
	}
	tb.Skip("skipped: " + what)
}

// picture keeps how the page looked when the test failed, in a file that stays.
func (p *Page) picture() {
	ctx, cancel := context.WithTimeout(p.Context, 10*time.Second)
	defer cancel()
	shot, err := chromedp.Call(ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{CaptureBeyondViewport: new(true)})
	if err != nil {
		p.tb.Logf("there is no picture of the page: %v", err)
		return
	}
	f, err := os.CreateTemp("", "browsertest-*.png")
	if err != nil {
		p.tb.Logf("there is no picture of the page: %v", err)
		return
	}
	if _, err = f.Write(shot.Data); err == nil {
		err = f.Close()
	}
	if err != nil {
		p.tb.Logf("there is no whole picture of the page: %v", err)
		return
	}
	p.tb.Logf("a picture of the page: %s", f.Name())
}

func (p *Page) listen(event any) {
	switch e := event.(type) {
	case *cdpruntime.EventConsoleAPICalled:
		switch e.Type {
		case cdpruntime.ConsoleAPICalledTypeError, cdpruntime.ConsoleAPICalledTypeWarning, cdpruntime.ConsoleAPICalledTypeAssert:
			var text []string
			for _, a := range e.Args {
				text = append(text, string(a.Value)+a.Description)
			}
			p.fault("console %s: %s", e.Type, strings.Join(text, " "))
		}
	case *cdpruntime.EventExceptionThrown:
		text := e.ExceptionDetails.Text
		if x := e.ExceptionDetails.Exception; x != nil {
			text += " " + x.Description
		}
		p.fault("exception: %s", text)
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			p.fault("%s %s: %s (%s)", e.Entry.Source, e.Entry.Level, e.Entry.Text, e.Entry.URL)
		}
	case *audits.EventIssueAdded:
		if d := e.Issue.Details.ContentSecurityPolicyIssueDetails; d != nil {
			p.fault("content security policy: %s by %s", d.ViolatedDirective, d.BlockedURL)
		}
	case *network.EventRequestWillBeSent:
		u, err := url.Parse(e.Request.URL)
		if err != nil || (u.Scheme == "http" || u.Scheme == "https") && !slices.Contains(p.hosts, u.Host) {
			p.fault("a request to a third party: %s", e.Request.URL)
		}
	}
}

func (p *Page) fault(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, fmt.Sprintf(format, args...))
}

// Faults returns what would fail the test so far.
func (p *Page) Faults() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.faults)
}

// Allow says which faults the test brings about itself: those whose text holds part.
func (p *Page) Allow(part string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.allowed = append(p.allowed, part)
}

// Do runs actions of chromedp that return nothing, and ends the test if one fails.
func (p *Page) Do(actions ...chromedp.Action[chromedp.Void]) {
	p.tb.Helper()
	Run(p, chromedp.Steps(actions...))
}

// Run runs an action of chromedp and returns its value, and ends the test if it fails.
func Run[T any](p *Page, action chromedp.Action[T]) T {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(p.Context, deadline)
	defer cancel()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		p.tb.Fatal(err)
	}
	return v
}

// Eval evaluates an expression of JavaScript, and waits for it if it is a promise.
func Eval[T any](p *Page, expression string) T {
	p.tb.Helper()
	return Run(p, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// Goto opens a page and waits until it is loaded.
func (p *Page) Goto(address string) {
	p.tb.Helper()
	p.Do(chromedp.Navigate(address))
}

// Wait waits until an expression is true.
func (p *Page) Wait(expression string) {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(p.Context, deadline)
	defer cancel()
	for {
		// A page that is being left can't answer.
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("!!("+expression+")"))
		if ok && err == nil {
			return
		}
		select {
		case <-ctx.Done():
			text, _ := chromedp.Run(p.Context, chromedp.Evaluate[string]("document.body.innerText"))
			p.tb.Fatalf("waited in vain for %s (%v); the page says:\n%s", expression, err, text)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Text returns the text of the first element that a CSS selector finds.
func (p *Page) Text(selector string) string {
	p.tb.Helper()
	return Run(p, chromedp.Text(chromedp.CSS(selector)))
}

// root is the directory of the module.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "../../..")
}

var built = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("REGARD_VERIFIER"); dir != "" {
		return dir, nil
	}
	// It stays, for the next test program to find all of it in the cache of Go but the linking.
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("regard-verifier-%d", os.Getuid()))
	out, err := exec.Command(filepath.Join(root(), "deploy/tools/verifier"), dir).CombinedOutput() // #nosec G204 -- of this repository
	if err != nil {
		err = fmt.Errorf("building the verifier: %w: %s", err, out)
	}
	return dir, err
})

// Verifier returns the directory of a verifier that was built from this source: that of make, by REGARD_VERIFIER, or one made now.
func Verifier(tb testing.TB) string {
	tb.Helper()
	dir, err := built()
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}
