// Package version says which version a program is: the module's, and the commit it was built from, as the build noted them. It vouches for nothing: a changed program may say anything.
package version

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// String is the version of this program.
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" {
		v = "(devel)"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 && v == "(devel)" {
			v += " " + s.Value[:12]
		}
		if s.Key == "vcs.modified" && s.Value == "true" && v[len(v)-1] != '+' {
			v += "+"
		}
	}
	return v
}

// Command is the command version of a program.
func Command(program string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "version", Short: "Say which version this is", Args: cobra.NoArgs,
		Example: "  " + program + " version\n  " + program + " version --json",
		RunE: func(c *cobra.Command, _ []string) error {
			v := map[string]string{"version": String(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			if asJSON {
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(v)
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s %s, %s, %s\n", program, v["version"], v["go"], v["platform"])
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return c
}
