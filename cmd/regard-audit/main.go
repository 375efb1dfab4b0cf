// Command regard-audit checks what a broker hands out, without a broker. See regard-audit --help.
package main

import (
	"os"

	"github.com/regard-broker/regard/cmd/regard-audit/audit"
)

func main() { os.Exit(audit.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
