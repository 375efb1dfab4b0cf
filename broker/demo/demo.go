// Package demo plays the main line of Regard on one machine, with the programs that users run: a broker, providers of invented people, agencies, witnesses, an auditor.
//
// What it guarantees. Everything it shows was done by the programs themselves in processes of their own; what it says was checked, was checked; if anything is not as it
// should be it ends with an error. Everybody in it is invented. It listens on this machine only and removes what it made, unless told to keep it.
//
// What it doesn't. It is no test of speed, and its directory is no model for production: see docs/operate.md.
package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/regard-broker/regard/deploy/freeport"
)

// Config of a demonstration.
type Config struct {
	// Bin is the directory of regard, regard-audit and regard-provider.
	Bin string
	// Dir is where everything is made. What an earlier demonstration left there is replaced; a directory that holds anything else is refused.
	Dir string
	// Vault is the path of a devvault program; empty: the keys are in an embedded keystore.
	Vault string
	// Cluster plays it on two brokers that share PostgreSQL, Trillian and a Vault, which is then needed.
	Cluster bool
	// Trillian is the path of Trillian's stock log server; empty: the signers of a cluster are log servers, too.
	Trillian string
	// Once ends it after the last scene; otherwise everything keeps running until ctx ends.
	Once bool
	// Out gets the story, Verbose also what the programs log.
	Out     io.Writer
	Verbose bool
}

// Run plays the demonstration.
func Run(ctx context.Context, cfg Config) (err error) {
	d := &demo{cfg: cfg, ctx: ctx}
	if d.dir, err = filepath.Abs(cfg.Dir); err != nil {
		return err
	}
	if err := d.clear(); err != nil {
		return err
	}
	d.stage = &alone{demo: d}
	if cfg.Cluster {
		if cfg.Vault == "" {
			return errors.New("two brokers share the keys in a Vault: name a devvault program (--vault)")
		}
		d.stage = &cluster{demo: d}
	}
	defer func() { d.stopAll(); err = errors.Join(err, d.stage.close()) }()
	for _, act := range []func() error{d.prepare, d.govern, d.scenes, d.look, d.investigate, d.upgrade, d.crash, d.settle, d.held, d.audit, d.complete, d.tell, d.watch, d.told, d.others, d.browse, d.erase} {
		if err := act(); err != nil {
			return fmt.Errorf("the demonstration failed: %w\n%s", err, d.logs())
		}
	}
	d.sayf("\nDone in %s: every step was verified. Everybody here was invented.%s", time.Since(d.began).Round(time.Second), d.stage.summary())
	if !cfg.Once {
		if err := d.again(); err != nil {
			return fmt.Errorf("the demonstration failed: %w\n%s", err, d.logs())
		}
		d.invite()
		d.sayf("\nEverything keeps running until you press Ctrl-C.\n  the log       http://%[1]s/checkpoint\n  the directory %[2]s\n  try           %[3]s status --config %[4]s\n                %[3]s-audit fsck http://%[1]s --policy %[2]s/log.policy\n  and more      docs/audit.md", d.public, d.dir, filepath.Join(cfg.Bin, "regard"), d.stage.config())
		<-ctx.Done()
	}
	return nil
}

// mark is the file by which a demonstration knows what it may replace.
const mark = ".regard-demo"

// clear makes the directory, or empties one that an earlier demonstration made.
func (d *demo) clear() error {
	entries, err := os.ReadDir(d.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0:
	case err != nil:
		return err
	default:
		if _, err := os.Stat(d.path(mark)); err != nil {
			return fmt.Errorf("%s holds something that no demonstration made: choose another directory", d.dir)
		}
		if err := os.RemoveAll(d.dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(d.path(mark), []byte("made by regard demo, which replaces this directory\n"), 0o600)
}

type demo struct {
	cfg   Config
	ctx   context.Context //nolint:containedctx // one run is one call
	dir   string
	began time.Time

	stage             stage
	api, public, base string
	portal, simulator string
	vkey              string
	witness           []*process
	processes         []*process
	ports             []*freeport.Hold
	rows              []row
	delayed           row
}

func (d *demo) sayf(format string, args ...any) { fmt.Fprintf(d.cfg.Out, format+"\n", args...) }

func (d *demo) path(elem ...string) string { return filepath.Join(append([]string{d.dir}, elem...)...) }

// run runs a program to its end and returns its standard output. What is shown is what was run, with the demonstration's directory left out.
func (d *demo) run(show bool, program string, args ...string) ([]byte, error) {
	if show {
		d.sayf("  $ %s", d.shown(program, args))
	}
	cmd := exec.CommandContext(d.ctx, filepath.Join(d.cfg.Bin, program), args...) // #nosec G204 -- the demonstration's own programs, named by itself
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.Bytes(), &failedRun{program: program, err: err, output: errs.String()}
	}
	return out.Bytes(), nil
}

func (d *demo) shown(program string, args []string) string {
	words := []string{program}
	for _, a := range args {
		if a == d.dir {
			a = "."
		}
		a = strings.ReplaceAll(a, d.dir+"/", "")
		if strings.ContainsAny(a, " '") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

type failedRun struct {
	program string
	err     error
	output  string
}

func (f *failedRun) Error() string {
	return fmt.Sprintf("%s: %v\n%s", f.program, f.err, strings.TrimSpace(f.output))
}
func (f *failedRun) Unwrap() error { return f.err }

func (f *failedRun) code() int {
	var e *exec.ExitError
	if errors.As(f.err, &e) {
		return e.ExitCode()
	}
	return -1
}

// A process is a program that keeps running.
type process struct {
	name string
	cmd  *exec.Cmd
	mu   sync.Mutex
	tail []string // its last lines
	done chan struct{}
}

func (d *demo) start(name, program string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(program, args...), done: make(chan struct{})} // #nosec G204 -- as above
	p.cmd.Dir = d.dir
	// A demonstration that dies takes its programs with it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r, w := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		s := bufio.NewScanner(r)
		for s.Scan() {
			p.mu.Lock()
			if p.tail = append(p.tail, s.Text()); len(p.tail) > 40 {
				p.tail = p.tail[1:]
			}
			p.mu.Unlock()
			if d.cfg.Verbose {
				d.sayf("    %s | %s", name, s.Text())
			}
		}
		_, _ = io.Copy(io.Discard, r)
	}()
	go func() {
		_ = p.cmd.Wait()
		_ = w.Close()
		close(p.done)
	}()
	d.processes = append(d.processes, p)
	return p, nil
}

// stop asks a process to end, and insists after a while.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// kill ends a process with kill -9.
func (p *process) kill() error {
	err := p.cmd.Process.Kill()
	<-p.done
	return err
}

func (d *demo) stopAll() {
	for i := len(d.processes) - 1; i >= 0; i-- {
		d.processes[i].stop()
	}
	for _, p := range d.ports {
		p.Close()
	}
}

func (d *demo) logs() string {
	var b strings.Builder
	for _, p := range d.processes {
		p.mu.Lock()
		fmt.Fprintf(&b, "\nlast lines of %s:\n  %s\n", p.name, strings.Join(p.tail[max(0, len(p.tail)-8):], "\n  "))
		p.mu.Unlock()
	}
	return b.String()
}

// wait asks until so says yes, a process ends, or time is up.
func (d *demo) wait(what string, long time.Duration, p *process, so func() bool) error {
	deadline := time.Now().Add(long)
	var ended chan struct{}
	if p != nil {
		ended = p.done
	}
	for !so() {
		select {
		case <-d.ctx.Done():
			return d.ctx.Err()
		case <-ended:
			return fmt.Errorf("%s ended while waiting for %s", p.name, what)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %v for %s", long, what)
		}
	}
	return nil
}

// address is one for a program that will be started, which nobody else gets until the demonstration ends.
func (d *demo) address() (string, error) {
	port, err := freeport.New("127.0.0.1")
	if err != nil {
		return "", err
	}
	d.ports = append(d.ports, port)
	return port.Addr(), nil
}

func readJSON[T any](b []byte) (T, error) {
	var v T
	err := json.Unmarshal(b, &v)
	return v, err
}
