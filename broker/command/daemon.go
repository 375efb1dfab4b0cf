package command

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// A daemon runs beside others: a signer, a witness. The broker has its own end, which waits for requests.
type daemon interface {
	Failed() <-chan error
	Reload() error
	Stop(context.Context) error
}

// runDaemon starts a daemon and runs it until ctx ends or it fails. SIGHUP, which would end the process, is heard from before the start on.
func runDaemon[D daemon](ctx context.Context, log *slog.Logger, start func(context.Context) (D, error)) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	d, err := start(ctx)
	if err != nil {
		return err
	}
	stop := func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		log.Info("stopping")
		return d.Stop(ctx)
	}
	for {
		select {
		case <-hup:
			if err := d.Reload(); err != nil {
				log.Error("reloading failed, the old stays in force", "error", err)
			}
		case err := <-d.Failed():
			return errors.Join(err, stop())
		case <-ctx.Done():
			return stop()
		}
	}
}
