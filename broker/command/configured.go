package command

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker/admin"
	"github.com/regard-broker/regard/broker/config"
)

// source are the flags that say which configuration is meant.
type source struct {
	file    string
	set     []string
	noFiles bool // see config.Source
	signer  bool
	broker  bool // needs the name that tells a broker from others, which only its own environment may have
}

// places where a configuration is looked for, in order.
var places = []string{"regard.yaml", "/etc/regard/regard.yaml"}

func (s *source) flags(c *cobra.Command) {
	c.Flags().StringVarP(&s.file, "config", "c", "", "configuration file (default: $REGARD_CONFIG, ./regard.yaml, /etc/regard/regard.yaml)")
	c.Flags().StringArrayVar(&s.set, "set", nil, "set one key of the configuration: --set log.level=debug (repeatable; goes before file and environment; paths are meant from the file's directory)")
}

func (s *source) path() (string, error) {
	if s.file != "" {
		return s.file, nil
	}
	if f := os.Getenv("REGARD_CONFIG"); f != "" {
		return f, nil
	}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", usagef("no configuration: name it with --config, or make one with regard init")
}

func (s *source) load() (*config.Config, string, error) {
	file, err := s.path()
	if err != nil {
		return nil, "", err
	}
	c, err := config.Load(config.Source{File: file, Environ: os.Environ(), Set: s.set, NoFiles: s.noFiles, Unnamed: !s.broker, Signer: s.signer})
	var m *config.Mistakes
	if err != nil && !errors.As(err, &m) {
		err = usage{err}
	}
	return c, file, err
}

// caller are the flags of commands that speak to a running broker.
type caller struct {
	source
	socket string
}

func (a *caller) flags(c *cobra.Command) {
	a.source.flags(c)
	c.Flags().StringVar(&a.socket, "socket", "", "administration socket (default: the one of the configuration)")
}

func (a *caller) client() (*admin.Client, error) {
	if a.socket == "" {
		c, _, err := a.load()
		if err != nil {
			return nil, fmt.Errorf("finding the administration socket (or name it with --socket): %w", err)
		}
		a.socket = c.Admin.Socket
	}
	return admin.NewClient(a.socket), nil
}

func configCommand() *cobra.Command {
	s := source{broker: true}
	var asJSON bool
	check := &cobra.Command{
		Use: "check", Short: "Check the configuration without starting anything", Args: noArgs,
		Long: `check reads the configuration as serve would, and lists every mistake with its line, or with the variable or flag that stands in its place, and what to do. It opens no connection.

With --no-files it doesn't ask whether the files that are named are there and readable by their owner alone: for a configuration of another machine.
With --signer it reads it as regard signer would.`,
		Example: `  regard config check --config /etc/regard/regard.yaml
  regard config check --config deploy/compose/regard.yaml --no-files --json`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, file, err := s.load()
			if asJSON {
				type mistake struct {
					Key    string `json:"key"`
					Source string `json:"source,omitempty"`
					Line   int    `json:"line,omitempty"`
					Says   string `json:"says"`
					Do     string `json:"do"`
				}
				out := struct {
					File     string    `json:"file"`
					OK       bool      `json:"ok"`
					Mistakes []mistake `json:"mistakes"`
				}{file, err == nil, []mistake{}}
				var m *config.Mistakes
				if errors.As(err, &m) {
					for _, x := range m.List {
						out.Mistakes = append(out.Mistakes, mistake(x))
					}
				}
				return errors.Join(printJSON(c.OutOrStdout(), out), err)
			}
			if err != nil {
				return err
			}
			mode := "for trying out"
			if cfg.Production {
				mode = "for production"
			}
			if s.signer {
				_, err = fmt.Fprintf(c.OutOrStdout(), "%s is good, %s: the signer\n", file, mode)
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is good, %s: log %s, data in %s, keys in %s\n", file, mode, cfg.Origin, cfg.DataDir, cfg.Keys.Mode)
			return err
		},
	}
	s.flags(check)
	check.Flags().BoolVar(&s.noFiles, "no-files", false, "don't look at the files that are named")
	check.Flags().BoolVar(&s.signer, "signer", false, "check what regard signer needs, instead of what a broker needs")
	jsonFlag(check, &asJSON)
	return group("config", "The configuration file", "The configuration is one YAML file; environment variables (REGARD_API_LISTEN for api.listen) and --set go before it.", "  regard config check", check)
}
