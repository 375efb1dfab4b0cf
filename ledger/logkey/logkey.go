// Package logkey reads whose signatures count, as all programs take it: --log-key is a log's verification key or a file with it, --policy a file that also names witnesses.
//
// It says nothing about whose key it is: whoever gives a flag trusts what it names.
package logkey

import (
	"errors"
	"fmt"
	"strings"

	"github.com/regard-broker/regard/ledger/proof"
)

// Reader reads a file that a flag names.
type Reader func(name string) ([]byte, error)

// Policy takes what one of the two flags says. without is the error if neither is given.
func Policy(logKey, policy string, without error, read Reader) (*proof.Policy, error) {
	switch {
	case logKey == "" && policy == "":
		return nil, without
	case logKey != "" && policy != "":
		return nil, errors.New("give one of --log-key and --policy, not both: a policy has the log's key in it")
	case policy != "":
		text, err := read(policy)
		if err != nil {
			return nil, fmt.Errorf("--policy: %w", err)
		}
		p, err := proof.ParsePolicy(text)
		if err != nil {
			return nil, fmt.Errorf("--policy %s: %w", policy, err)
		}
		return p, nil
	}
	vkey, err := KeyOrFile("--log-key", logKey, read)
	if err != nil {
		return nil, err
	}
	p, err := proof.NewPolicy(vkey)
	if err != nil {
		return nil, fmt.Errorf("--log-key: %w", err)
	}
	return p, nil
}

// KeyOrFile takes the value of a flag that is a verification key, or a file with it.
func KeyOrFile(flag, value string, read Reader) (string, error) {
	if strings.Contains(value, "+") {
		return value, nil
	}
	text, err := read(value)
	if err != nil {
		return "", fmt.Errorf("%s: %w (a key, in place of a file with it, would hold a +)", flag, err)
	}
	return strings.TrimSpace(string(text)), nil
}
