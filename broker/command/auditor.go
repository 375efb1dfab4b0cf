package command

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker/admin"
)

func auditorCommand() *cobra.Command {
	var name, cert, key string
	add := administer(&cobra.Command{
		Use: "add ID", Short: "Register an accredited auditor", Args: someArgs(1, false, "the auditor's id"),
		Long: `add registers an auditor with a client certificate (regard keygen) and the key with which they cosign the index of an epoch (regard-audit keygen). The key's
digest stands in the public log. An auditor opens any record, and each is told to its person; whom you register is a matter of law, not of administration.`,
		Example: "  regard auditor add cour-des-comptes --name 'Cour des comptes' --cert cour.pem --key cour.vkey",
	}, func(ctx context.Context, c *admin.Client, args []string) (admin.Done, error) {
		if cert == "" || key == "" {
			return admin.Done{}, usagef("--cert and --key are needed: the auditor's client certificate (PEM), and their verification key or the file with it")
		}
		pem, err := readCert(cert)
		if err != nil {
			return admin.Done{}, err
		}
		vkey, err := readVerificationKey(key)
		if err != nil {
			return admin.Done{}, err
		}
		return c.AddAuditor(ctx, admin.NewAuditor{ID: args[0], Name: name, Certificate: pem, Key: vkey})
	}, done("Auditor %s is registered."))
	add.Flags().StringVar(&name, "name", "", "official name")
	add.Flags().StringVar(&cert, "cert", "", "client certificate (PEM, without its key)")
	add.Flags().StringVar(&key, "key", "", "verification key (name+id+base64), or a file with it")

	var nextCert, nextKey string
	var keep bool
	rotate := administer(&cobra.Command{
		Use: "rotate ID", Short: "Replace an auditor's certificate, key or both", Args: someArgs(1, false, "the auditor's id"),
		Long:    "rotate registers a new certificate, a new verification key or both. The earlier ones of the same sort end at once, or with --keep-old not yet. What was cosigned with them stands.",
		Example: "  regard auditor rotate cour-des-comptes --cert cour-2027.pem\n  regard auditor rotate cour-des-comptes --key cour-2027.vkey",
	}, func(ctx context.Context, c *admin.Client, args []string) (admin.Done, error) {
		if nextCert == "" && nextKey == "" {
			return admin.Done{}, usagef("give --cert, --key or both: what is to be replaced")
		}
		r := admin.AuditorRotation{KeepOld: keep}
		var err error
		if nextCert != "" {
			if r.Certificate, err = readCert(nextCert); err != nil {
				return admin.Done{}, err
			}
		}
		if nextKey != "" {
			if r.Key, err = readVerificationKey(nextKey); err != nil {
				return admin.Done{}, err
			}
		}
		return c.RotateAuditor(ctx, args[0], r)
	}, done("Auditor %s is registered anew."))
	rotate.Flags().StringVar(&nextCert, "cert", "", "new client certificate (PEM, without its key)")
	rotate.Flags().StringVar(&nextKey, "key", "", "new verification key (name+id+base64), or a file with it")
	rotate.Flags().BoolVar(&keep, "keep-old", false, "leave the earlier ones in force")

	revoke := administer(&cobra.Command{
		Use: "revoke ID", Short: "End all that an auditor may do, at once", Args: someArgs(1, false, "the auditor's id"), Example: "  regard auditor revoke cour-des-comptes",
	}, func(ctx context.Context, c *admin.Client, args []string) (admin.Done, error) {
		return c.RevokeAuditor(ctx, args[0])
	}, done("Auditor %s is revoked."))

	list := administer(&cobra.Command{Use: "list", Short: "List the auditors", Args: noArgs, Example: "  regard auditor list --json"},
		func(ctx context.Context, c *admin.Client, _ []string) ([]admin.Auditor, error) {
			return c.Auditors(ctx)
		},
		func(c *cobra.Command, list []admin.Auditor) error {
			var rows [][]string
			for _, a := range list {
				until, key := "-", "-"
				for _, k := range a.Certificates {
					if k.State == "active" {
						until = k.NotAfter.Format("2006-01-02")
					}
				}
				for _, k := range a.Keys {
					if k.State == "active" {
						key = k.Key
					}
				}
				rows = append(rows, []string{a.ID, a.State, until, key, a.Name})
			}
			return table(c.OutOrStdout(), "ID STATE CERTIFICATE-UNTIL KEY NAME", rows)
		})
	return group("auditor", "Accredited auditors", "An auditor opens records and rolls, and cosigns the index of closed epochs. Changes stand in the public log (the digest of the key) and are in force for the next request.", "  regard auditor list", add, rotate, revoke, list)
}

// readVerificationKey takes a key in the text form of signed notes, or a file with it.
func readVerificationKey(s string) (string, error) {
	if _, err := note.NewVerifier(s); err == nil {
		return s, nil
	}
	b, err := os.ReadFile(s)
	if err != nil {
		return "", usage{err}
	}
	return strings.TrimSpace(string(b)), nil
}
