// Command regard operates and administers a broker, and asks one as an agency. See regard --help.
package main

import (
	"os"

	"github.com/regard-broker/regard/broker/command"
)

func main() { os.Exit(command.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
