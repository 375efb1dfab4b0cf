package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/regard-broker/regard/broker/admin"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/policy"
)

// administer makes a command that calls the running broker and prints what came back.
func administer[T any](c *cobra.Command, run func(context.Context, *admin.Client, []string) (T, error), show func(*cobra.Command, T) error) *cobra.Command {
	var a caller
	var asJSON bool
	a.flags(c)
	jsonFlag(c, &asJSON)
	c.RunE = func(c *cobra.Command, args []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		v, err := run(c.Context(), client, args)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(c.OutOrStdout(), v)
		}
		return show(c, v)
	}
	return c
}

// done says what was changed, to people.
func done(format string) func(*cobra.Command, admin.Done) error {
	return func(c *cobra.Command, d admin.Done) error {
		name := d.ID
		if d.Version > 0 {
			name += "@" + strconv.FormatInt(d.Version, 10)
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), format+"\n", name)
		return err
	}
}

func readCert(file string) (string, error) {
	if file == "" {
		return "", usagef("--cert is missing: the file with the client certificate (PEM)")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", usage{err}
	}
	return string(b), nil
}

func agencyCommand() *cobra.Command {
	var name, siret, cert string
	var keep bool
	add := administer(&cobra.Command{
		Use: "add ID", Short: "Register an agency with its client certificate", Args: someArgs(1, false, "the agency's id"),
		Example: "  regard agency add ccas-saint-lary --name 'CCAS de Saint-Lary' --siret 13002526500013 --cert ccas.pem",
	}, func(ctx context.Context, c *admin.Client, args []string) (admin.Done, error) {
		text, err := readCert(cert)
		if err != nil {
			return admin.Done{}, err
		}
		return c.AddAgency(ctx, admin.NewAgency{ID: args[0], Name: name, SIRET: siret, Certificate: text})
	}, done("Agency %s is registered."))
	add.Flags().StringVar(&name, "name", "", "official name")
	add.Flags().StringVar(&siret, "siret", "", "SIRET, 14 digits")
	add.Flags().StringVar(&cert, "cert", "", "client certificate (PEM, without its key)")

	var next string
	rotate := administer(&cobra.Command{
		Use: "rotate ID", Short: "Replace an agency's certificate", Args: someArgs(1, false, "the agency's id"),
		Long:    "rotate registers a new certificate, with a new key. The earlier ones end at once, or with --keep-old not yet: rotate again, with another new certificate, or revoke, to end them.",
		Example: "  regard agency rotate ccas-saint-lary --cert ccas-2027.pem",
	}, func(ctx context.Context, c *admin.Client, args []string) (admin.Done, error) {
		text, err := readCert(next)
		if err != nil {
			return admin.Done{}, err
		}
		return c.RotateAgency(ctx, args[0], admin.Rotation{Certificate: text, KeepOld: keep})
	}, done("Agency %s has a new certificate."))
	rotate.Flags().StringVar(&next, "cert", "", "new client certificate (PEM, without its key)")
	rotate.Flags().BoolVar(&keep, "keep-old", false, "leave the earlier certificates in force")

	revoke := administer(&cobra.Command{
		Use: "revoke ID", Short: "End all that an agency may do, at once", Args: someArgs(1, false, "the agency's id"), Example: "  regard agency revoke ccas-saint-lary",
	}, func(ctx context.Context, c *admin.Client, args []string) (admin.Done, error) {
		return c.RevokeAgency(ctx, args[0])
	}, done("Agency %s is revoked."))

	list := administer(&cobra.Command{Use: "list", Short: "List the agencies", Args: noArgs, Example: "  regard agency list --json"},
		func(ctx context.Context, c *admin.Client, _ []string) ([]admin.Agency, error) { return c.Agencies(ctx) },
		func(c *cobra.Command, list []admin.Agency) error {
			var rows [][]string
			for _, a := range list {
				until := "-"
				var digests []string
				for _, k := range a.Keys {
					if k.State == "active" {
						until = k.NotAfter.Format("2006-01-02")
						digests = append(digests, k.SPKI)
					}
				}
				rows = append(rows, []string{a.ID, a.State, a.SIRET, until, cmp.Or(strings.Join(digests, ","), "-"), a.Name})
			}
			return table(c.OutOrStdout(), "ID STATE SIRET CERTIFICATE-UNTIL KEY-SHA256 NAME", rows)
		})
	return group("agency", "Public bodies that may ask", "Changes stand in the public log (the SHA-256 of the certificate's key) and are in force for the next request.", "  regard agency list", add, rotate, revoke, list, agencySetCommand())
}

func agreementCommand() *cobra.Command {
	var file string
	var in admin.Agreement
	var delay admin.Delay
	add := administer(&cobra.Command{
		Use: "add [ID]", Short: "Put an agreement, or its next version, in force", Args: oneAtMost,
		Long: `add reads an agreement from a YAML or JSON file, or from flags. An id that exists already gets its next version.

Keys of the file: id, agency, service, scopes, purposes, legal_bases, not_before, not_after, obligations (notify_person, wait_for_witnesses), deferral.
Times are days (2026-01-31, UTC; the last one counts as a whole) or RFC 3339.

deferral is a lawful delay: authority, article, reference (opaque) and days. The people concerned learn of each request that many days after it. The whole agreement is published, the
reference too: none of it may name anybody.`,
		Example: `  regard agreement add -f agreement.yaml
  regard agreement add aid-2026 --agency ccas-saint-lary --service cnav-quotient-familial --scope quotient --purpose social-aid \
      --legal-basis cerfa-14577 --not-before 2026-01-01 --not-after 2026-12-31`,
	}, func(ctx context.Context, c *admin.Client, args []string) (admin.Done, error) {
		if file != "" {
			if in.Agency != "" || in.Service != "" || len(in.Scopes)+len(in.Purposes)+len(in.LegalBases)+len(in.Obligations) > 0 || in.NotBefore != "" || in.NotAfter != "" || delay != (admin.Delay{}) {
				return admin.Done{}, usagef("give --file or the other flags, not both")
			}
			a, err := readAgreement(file)
			if err != nil {
				return admin.Done{}, err
			}
			in = a
		} else if delay != (admin.Delay{}) {
			in.Deferral = &delay
		}
		if len(args) == 1 {
			if in.ID != "" && in.ID != args[0] {
				return admin.Done{}, usagef("the file is about %s", in.ID)
			}
			in.ID = args[0]
		}
		if file == "" {
			if missing := missingOf(&in); len(missing) > 0 {
				return admin.Done{}, usagef("missing: %s (or give a file with --file)", strings.Join(missing, ", "))
			}
		}
		return c.PutAgreement(ctx, in)
	}, done("Agreement %s is in force."))
	f := add.Flags()
	f.StringVarP(&file, "file", "f", "", "YAML or JSON file")
	f.StringVar(&in.Agency, "agency", "", "id of the agency")
	f.StringVar(&in.Service, "service", "", "id of the service")
	f.StringArrayVar(&in.Scopes, "scope", nil, "scope (repeatable)")
	f.StringArrayVar(&in.Purposes, "purpose", nil, "purpose (repeatable)")
	f.StringArrayVar(&in.LegalBases, "legal-basis", nil, "legal basis (repeatable)")
	f.StringVar(&in.NotBefore, "not-before", "", "first day")
	f.StringVar(&in.NotAfter, "not-after", "", "last day")
	f.StringArrayVar(&in.Obligations, "obligation", nil, "obligation (repeatable)")
	f.StringVar(&delay.Authority, "deferral-authority", "", "lawful delay: who ordered it (public)")
	f.StringVar(&delay.Article, "deferral-article", "", "lawful delay: article of the law that allows it (public)")
	f.StringVar(&delay.Reference, "deferral-reference", "", "lawful delay: reference of the authorisation (public: it names nobody)")
	f.Int64Var(&delay.Days, "deferral-days", 0, "lawful delay: after how many days the people learn of a request")

	revoke := administer(&cobra.Command{
		Use: "revoke ID", Short: "End an agreement, at once", Args: someArgs(1, false, "the agreement's id"), Example: "  regard agreement revoke aid-2026",
	}, func(ctx context.Context, c *admin.Client, args []string) (admin.Done, error) {
		return c.RevokeAgreement(ctx, args[0])
	}, done("Agreement %s is revoked."))

	list := administer(&cobra.Command{Use: "list", Short: "List the agreements", Args: noArgs, Example: "  regard agreement list --json"},
		func(ctx context.Context, c *admin.Client, _ []string) ([]admin.Agreement, error) {
			return c.Agreements(ctx)
		},
		func(c *cobra.Command, list []admin.Agreement) error {
			var rows [][]string
			for _, a := range list {
				rows = append(rows, []string{a.ID + "@" + strconv.FormatInt(a.Version, 10), a.State, a.Agency, a.Service, strings.Join(a.Scopes, ","), strings.Join(a.Purposes, ","), a.NotAfter})
			}
			return table(c.OutOrStdout(), "ID STATE AGENCY SERVICE SCOPES PURPOSES UNTIL", rows)
		})

	show := administer(&cobra.Command{Use: "show ID", Short: "Show one agreement, as a file that add would take", Args: someArgs(1, false, "the agreement's id"), Example: "  regard agreement show aid-2026 > aid-2026.yaml"},
		func(ctx context.Context, c *admin.Client, args []string) (admin.Agreement, error) {
			list, err := c.Agreements(ctx)
			if err != nil {
				return admin.Agreement{}, err
			}
			for _, a := range list {
				if a.ID == args[0] {
					return a, nil
				}
			}
			return admin.Agreement{}, fmt.Errorf("there is no agreement %q", args[0])
		},
		func(c *cobra.Command, a admin.Agreement) error {
			b, err := yaml.Marshal(a)
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(b)
			return err
		})
	return group("agreement", "What agencies may ask", "An agreement (habilitation) says which scopes of one service an agency may ask, for which purposes and on which legal bases. Every version stands in the public log.", "  regard agreement list", add, revoke, list, show)
}

// missingOf names what an agreement from flags lacks.
func missingOf(a *admin.Agreement) (out []string) {
	for _, x := range []struct {
		name  string
		given bool
	}{
		{"the agreement's ID", a.ID != ""}, {"--agency", a.Agency != ""}, {"--service", a.Service != ""}, {"--scope", len(a.Scopes) > 0}, {"--purpose", len(a.Purposes) > 0}, {"--legal-basis", len(a.LegalBases) > 0},
		{"--not-before", a.NotBefore != ""}, {"--not-after", a.NotAfter != ""},
	} {
		if !x.given {
			out = append(out, x.name)
		}
	}
	return out
}

// readAgreement takes YAML, and so JSON.
func readAgreement(file string) (a admin.Agreement, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return a, usage{err}
	}
	d := yaml.NewDecoder(strings.NewReader(string(b)))
	d.KnownFields(true)
	if err := d.Decode(&a); err != nil {
		return a, usagef("%s is not an agreement: %w", file, err)
	}
	return a, nil
}

func serviceCommand() *cobra.Command {
	check := &cobra.Command{
		Use: "check FILE…", Short: "Check service definitions, without a broker", Args: someArgs(1, true, "a file"), Example: "  regard service check services/*.yaml",
		RunE: func(c *cobra.Command, files []string) error {
			var errs []error
			for _, f := range files {
				b, err := os.ReadFile(f)
				if err != nil {
					errs = append(errs, usage{err})
					continue
				}
				d, err := service.Parse(b)
				if err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", f, err))
					continue
				}
				note := ""
				if d.Development() {
					note = ", for development only: its endpoint is plain http"
				}
				fmt.Fprintf(c.OutOrStdout(), "%s is good: %s@%d%s\n", f, d.ID, d.Version, note)
			}
			return errors.Join(errs...)
		},
	}
	add := administer(&cobra.Command{
		Use: "add FILE…", Short: "Put service definitions in force", Args: someArgs(1, true, "a file"),
		Long:    "add puts definitions in force. A definition that is in force already changes nothing; a changed one needs a greater version.",
		Example: "  regard service add services/cnav-quotient-familial.yaml",
	}, func(ctx context.Context, c *admin.Client, files []string) ([]admin.Done, error) {
		var out []admin.Done
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				return out, usage{err}
			}
			d, err := c.PutService(ctx, b)
			if err != nil {
				return out, fmt.Errorf("%s: %w", f, err)
			}
			out = append(out, d)
		}
		return out, nil
	}, func(c *cobra.Command, list []admin.Done) error {
		for _, d := range list {
			if err := done("Service %s is in force.")(c, d); err != nil {
				return err
			}
		}
		return nil
	})
	withdraw := administer(&cobra.Command{
		Use: "withdraw ID", Short: "End a service, at once", Args: someArgs(1, false, "the service's id"), Example: "  regard service withdraw cnav-quotient-familial",
	}, func(ctx context.Context, c *admin.Client, args []string) (admin.Done, error) {
		return c.WithdrawService(ctx, args[0])
	}, done("Service %s is withdrawn."))
	list := administer(&cobra.Command{Use: "list", Short: "List the services", Args: noArgs, Example: "  regard service list"},
		func(ctx context.Context, c *admin.Client, _ []string) ([]admin.Service, error) {
			return c.Services(ctx)
		},
		func(c *cobra.Command, list []admin.Service) error {
			var rows [][]string
			for _, s := range list {
				rows = append(rows, []string{s.ID + "@" + strconv.FormatInt(s.Version, 10), s.Provider, strings.Join(s.Scopes, ","), strings.Join(s.Subjects, ","), s.Title})
			}
			return table(c.OutOrStdout(), "ID PROVIDER SCOPES SUBJECTS TITLE", rows)
		})
	return group("service", "Data services of providers", "A definition is one YAML file (docs/services.md). Its digest stands in the public log, and its bytes beside it.", "  regard service check services/*.yaml", check, add, withdraw, list)
}

func showPolicy(c *cobra.Command, p admin.Policy) error {
	_, err := fmt.Fprintf(c.OutOrStdout(), "revision  %s\ndigest    %s\nblob      blob/%s\n", p.Revision, p.Digest, p.Blob)
	if p.Problem != "" {
		fmt.Fprintf(c.OutOrStdout(), "problem   %s\n          The bundle above stays in force.\n", p.Problem)
	}
	return err
}

func policyCommand() *cobra.Command {
	show := administer(&cobra.Command{Use: "show", Short: "Show which bundle is in force", Args: noArgs, Example: "  regard policy show"},
		func(ctx context.Context, c *admin.Client, _ []string) (admin.Policy, error) { return c.Policy(ctx) }, showPolicy)
	reload := administer(&cobra.Command{Use: "reload", Short: "Read the bundle anew", Args: noArgs, Example: "  regard policy reload",
		Long: "reload compiles the bundle, runs its tests, logs its digest and puts it in force. One that can't be used changes nothing."},
		func(ctx context.Context, c *admin.Client, _ []string) (admin.Policy, error) {
			return c.ReloadPolicy(ctx)
		}, showPolicy)
	var asJSON bool
	check := &cobra.Command{
		Use: "check [DIR]", Short: "Check a bundle, without a broker", Args: oneAtMost, Example: "  regard policy check ./policy\n  regard policy check ./policy --json",
		Long: "check compiles the bundle in DIR (or a gzipped tar; left out: the one that the program carries) and runs its tests.",
		RunE: func(c *cobra.Command, args []string) error {
			src := policy.Embedded()
			if len(args) == 1 {
				src = policy.FromPath(args[0])
			}
			e, err := policy.New(c.Context(), policy.Config{Source: src, Activate: func(context.Context, policy.Activation) error { return nil }})
			if err != nil {
				return err
			}
			st := e.Status()
			if asJSON {
				return printJSON(c.OutOrStdout(), admin.ShowPolicy(st))
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is good: revision %s, digest %s\n", src, st.Revision, st.Digest)
			return err
		},
	}
	jsonFlag(check, &asJSON)
	return group("policy", "The policy bundle that decides", "The digest of each bundle stands in the public log before it decides, and its bytes beside it.", "  regard policy show", show, reload, check)
}

func statusCommand() *cobra.Command {
	var logKey bool
	c := administer(&cobra.Command{Use: "status", Short: "Show how a running broker is doing", Args: noArgs, Example: "  regard status\n  regard status --log-key > log.vkey   # what agencies and auditors need"},
		func(ctx context.Context, c *admin.Client, _ []string) (admin.Status, error) { return c.Status(ctx) },
		func(c *cobra.Command, s admin.Status) error {
			if logKey && len(s.Log.Keys) > 0 {
				_, err := fmt.Fprintln(c.OutOrStdout(), s.Log.Keys[0])
				return err
			}
			state := "ready"
			if !s.Ready {
				state = "NOT READY: " + s.Problem
			}
			w := c.OutOrStdout()
			fmt.Fprintf(w, "%s\nversion    %s, process %d, since %s\nrequests   %d in flight\nlog        %s: %d entries, %d published, %d waiting, behind by %s\nepoch      %d, closes %s\npolicy     %s\n",
				state, s.Version, s.PID, s.Started.Format("2006-01-02 15:04:05 MST"), s.InFlight, s.Log.Origin, s.Log.Size, s.Log.Published, s.Log.Waiting, s.Log.Lag, s.Log.Epoch, s.Log.Until.Format("2006-01-02 15:04:05 MST"), s.Policy.Revision)
			for _, name := range []string{"api", "public", "ops"} {
				if a := s.Listening[name]; a != "" {
					fmt.Fprintf(w, "%-10s %s\n", name, a)
				}
			}
			if x := s.Cluster; x != nil {
				part := x.Role
				switch {
				case x.Role == "leads":
				case x.Leader == "":
					part += ", and NOBODY LEADS"
				default:
					part += "; " + x.Leader + " leads"
				}
				fmt.Fprintf(w, "cluster    %s %s, term %d; members: %d; groups of entries that wait for their place: %d\n", x.Name, part, x.Term, x.Members, x.Waiting)
			}
			for _, k := range s.Log.Keys {
				fmt.Fprintf(w, "log key    %s\n", k)
			}
			printWitnesses(w, &s)
			if s.Delays.Pending > 0 {
				fmt.Fprintf(w, "deferrals  %s of which somebody learns later, %d of them overdue (regard deferral list)\n", many(s.Delays.Pending, "entry", "entries"), s.Delays.Overdue)
			}
			if p := s.People; p != (admin.People{}) {
				fmt.Fprintf(w, "people     %d contests open, %d of them OVERDUE; %d erasures wait, %d of them are blocked; %d mails wait\n", p.Contests, p.Overdue, p.Erasures, p.Blocked, p.Mails)
			}
			if s.Damage != (admin.Damage{}) {
				fmt.Fprintf(w, "DAMAGED RECORDS: %d requests that can't be recorded, %d erasures that can't be carried through, %d delays that can't be ended. See docs/operate.md.\n", s.Damage.Requests, s.Damage.Erasures, s.Damage.Delays)
			}
			if s.Policy.Problem != "" {
				fmt.Fprintf(w, "THE POLICY THAT IS CONFIGURED IS NOT IN FORCE: %s. Revision %s decides meanwhile. One that only can't be recorded is tried again by itself; mend one that can't be used (regard policy check).\n", strings.TrimRight(s.Policy.Problem, ".\n"), s.Policy.Revision)
			}
			if s.Log.Halted {
				fmt.Fprintln(w, "THE LOG IS HALTED: it can't prove its own history. See docs/operate.md.")
			}
			return nil
		})
	c.Flags().BoolVar(&logKey, "log-key", false, "print the log's newest verification key and nothing else")
	return c
}
