package server

import (
	"maps"
	"slices"

	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/vault/plugincatalog"
)

const (
	transitName    = "transit"
	approleName    = "approle"
	kubernetesName = "kubernetes"
)

var (
	secrets     = map[string]logical.Factory{transitName: transit.Factory}
	credentials = map[string]logical.Factory{approleName: approle.Factory, kubernetesName: kubernetes.Factory}
)

// registry lists the plugins of this server. Vault's own registry links every database, cloud and directory client it
// knows, which multiplies the time to build and the size by about ten.
type registry struct{}

var _ plugincatalog.BuiltinRegistry = registry{}

func (registry) factories(kind consts.PluginType) map[string]logical.Factory {
	switch kind {
	case consts.PluginTypeSecrets:
		return secrets
	case consts.PluginTypeCredential:
		return credentials
	}
	return nil
}

func (r registry) Contains(name string, kind consts.PluginType) bool {
	_, ok := r.factories(kind)[name]
	return ok
}

func (r registry) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	f, ok := r.factories(kind)[name]
	if !ok {
		return nil, false
	}
	return func() (any, error) { return f, nil }, true
}

func (r registry) Keys(kind consts.PluginType) []string {
	return slices.Sorted(maps.Keys(r.factories(kind)))
}

func (r registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	if r.Contains(name, kind) {
		return consts.Supported, true
	}
	return consts.Unknown, false
}

func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
