// Package vault holds the policies that Regard's roles need in Vault or OpenBao, for the default names of mounts and keys. They can be written by hand (vault policy write
// regard-broker broker.hcl); `regard vault init` writes the same.
package vault

import _ "embed"

// The policies, by role. The sequencer has the broker's as well.
var (
	//go:embed broker.hcl
	Broker string
	//go:embed sequencer.hcl
	Sequencer string
	//go:embed operator.hcl
	Operator string
)
