package server

import (
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/vault/plugincatalog"
)

const (
	transitName = "transit"
	approleName = "approle"
)

// registry lists the two plugins of this server. Vault's own registry links every database, cloud and directory client it
// knows, which multiplies the time to build and the size by about ten.
type registry struct{}

var _ plugincatalog.BuiltinRegistry = registry{}

func (registry) factory(name string, kind consts.PluginType) (logical.Factory, bool) {
	switch {
	case kind == consts.PluginTypeSecrets && name == transitName:
		return transit.Factory, true
	case kind == consts.PluginTypeCredential && name == approleName:
		return approle.Factory, true
	}
	return nil, false
}

func (r registry) Contains(name string, kind consts.PluginType) bool {
	_, ok := r.factory(name, kind)
	return ok
}

func (r registry) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	f, ok := r.factory(name, kind)
	if !ok {
		return nil, false
	}
	return func() (any, error) { return f, nil }, true
}

func (registry) Keys(kind consts.PluginType) []string {
	switch kind {
	case consts.PluginTypeSecrets:
		return []string{transitName}
	case consts.PluginTypeCredential:
		return []string{approleName}
	}
	return nil
}

func (r registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	if r.Contains(name, kind) {
		return consts.Supported, true
	}
	return consts.Unknown, false
}

func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
