package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A role is what one of the processes does. The parent starts this program again for each and talks to it in lines of JSON: first its configuration, then commands,
// one at a time. A child ends when its standard input does, so that none outlives a parent that was killed.
type role interface {
	// do carries out one command; what it returns is sent as JSON.
	do(ctx context.Context, command string, arg json.RawMessage) (any, error)
	close() error
}

// roles by name. Each start returns what the parent has to know, its address above all.
var roles = map[string]func(ctx context.Context, config json.RawMessage) (role, any, error){
	"broker":   startBroker,
	"preload":  startPreload,
	"provider": startProvider,
	"proxy":    startProxy,
	"load":     startLoad,
	"signer":   startSigner,
	"verify":   startVerify,
}

type call struct {
	Command string          `json:"command"`
	Arg     json.RawMessage `json:"arg,omitempty"`
}

type reply struct {
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// Role runs a role of this program on the parent's pipes.
func Role(ctx context.Context, name string, in io.Reader, out io.Writer) error {
	start, ok := roles[name]
	if !ok {
		return fmt.Errorf("bench: there is no role %q", name)
	}
	dec, enc := json.NewDecoder(bufio.NewReaderSize(in, 1<<16)), json.NewEncoder(out)
	var config json.RawMessage
	if err := dec.Decode(&config); err != nil {
		return fmt.Errorf("reading the configuration of role %s: %w", name, err)
	}
	r, ready, err := start(ctx, config)
	if err != nil {
		return errors.Join(err, answer(enc, nil, err))
	}
	if err := answer(enc, ready, nil); err != nil {
		return errors.Join(err, r.close())
	}
	for {
		var c call
		if err := dec.Decode(&c); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return errors.Join(err, r.close())
		}
		var res any
		var err error
		if c.Command == "usage" {
			res, err = usageOfSelf()
		} else {
			res, err = r.do(ctx, c.Command, c.Arg)
		}
		if err := answer(enc, res, err); err != nil {
			return errors.Join(err, r.close())
		}
	}
}

func answer(enc *json.Encoder, v any, failed error) error {
	if failed != nil {
		return enc.Encode(reply{Error: failed.Error()})
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return enc.Encode(reply{Result: b})
}

// usage is what a process has consumed since it began.
type usage struct {
	CPU     time.Duration // user and system, of all threads: garbage collection and background work included
	PeakRSS int64         // bytes, VmHWM
}

func usageOfSelf() (usage, error) {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return usage{}, fmt.Errorf("asking for the time used: %w", err)
	}
	u := usage{CPU: time.Duration(ru.Utime.Nano() + ru.Stime.Nano())}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return u, nil // not Linux: no peak
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return u, fmt.Errorf("reading VmHWM: %w", err)
			}
			u.PeakRSS = kb << 10
		}
	}
	return u, nil
}

// child is the parent's end.
type child struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	enc  *json.Encoder
	dec  *json.Decoder
}

// spawn starts a role and waits until it is ready. environ is added to this process's environment.
func spawn(ctx context.Context, name string, config, ready any, environ ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	c := &child{name: name, cmd: exec.Command(self, RoleArg, name)} // #nosec G204 -- this program itself, in another role
	c.cmd.Stderr = os.Stderr
	c.cmd.Env = append(os.Environ(), environ...)
	// Ctrl-C reaches the whole group; the parent ends the children in order.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting role %s: %w", name, err)
	}
	c.enc, c.dec = json.NewEncoder(c.in), json.NewDecoder(bufio.NewReaderSize(out, 1<<16))
	if err := c.enc.Encode(config); err != nil {
		return nil, errors.Join(fmt.Errorf("configuring role %s: %w", name, err), c.stop())
	}
	if err := c.receive(ctx, ready); err != nil {
		return nil, errors.Join(fmt.Errorf("starting role %s: %w", name, err), c.stop())
	}
	return c, nil
}

// RoleArg is the argument with which this program starts itself.
const RoleArg = "role"

// ask sends one command and waits for its result. When ctx ends first, the child is killed.
func (c *child) ask(ctx context.Context, command string, arg, result any) error {
	var raw json.RawMessage
	if arg != nil {
		var err error
		if raw, err = json.Marshal(arg); err != nil {
			return err
		}
	}
	if err := c.enc.Encode(call{command, raw}); err != nil {
		return fmt.Errorf("asking role %s: %w", c.name, err)
	}
	if err := c.receive(ctx, result); err != nil {
		return fmt.Errorf("role %s, %s: %w", c.name, command, err)
	}
	return nil
}

func (c *child) receive(ctx context.Context, result any) error {
	stop := context.AfterFunc(ctx, func() { _ = c.cmd.Process.Kill() })
	defer stop()
	var r reply
	if err := c.dec.Decode(&r); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("it ended unexpectedly: %w", err)
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(r.Result, result)
}

func (c *child) usage(ctx context.Context) (u usage, err error) {
	err = c.ask(ctx, "usage", nil, &u)
	return u, err
}

// stopLimit bounds an orderly end, which for a broker includes labelling what waits.
const stopLimit = 2 * time.Minute

// stop ends the child and waits for it.
func (c *child) stop() error {
	if c == nil || c.in == nil {
		return nil
	}
	_ = c.in.Close()
	c.in = nil
	t := time.AfterFunc(stopLimit, func() { _ = c.cmd.Process.Kill() })
	defer t.Stop()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("role %s: %w", c.name, err)
	}
	return nil
}
