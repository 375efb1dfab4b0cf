package manifests

import (
	"bytes"
	"os"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	psapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// built is what kustomize makes of the base, each object as its own type.
type built struct {
	configs  map[string]*corev1.ConfigMap
	accounts map[string]*corev1.ServiceAccount
	claims   map[string]*corev1.PersistentVolumeClaim
	services []*corev1.Service
	budgets  []*policyv1.PodDisruptionBudget
	networks []*networkingv1.NetworkPolicy
	pods     map[string]corev1.PodTemplateSpec
	sets     map[string]*appsv1.StatefulSet
	jobs     map[string]bool // pods that run once
}

func build(t *testing.T) *built {
	t.Helper()
	res, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), deploy("kubernetes", "base"))
	if err != nil {
		t.Fatal(err)
	}
	b := &built{
		configs: map[string]*corev1.ConfigMap{}, accounts: map[string]*corev1.ServiceAccount{}, claims: map[string]*corev1.PersistentVolumeClaim{},
		pods: map[string]corev1.PodTemplateSpec{}, sets: map[string]*appsv1.StatefulSet{}, jobs: map[string]bool{},
	}
	for _, r := range res.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		// strict: what the API's type doesn't have is a mistake.
		strict := func(into any) {
			t.Helper()
			if err := yaml.UnmarshalStrict(text, into); err != nil {
				t.Errorf("%s %s: %v", r.GetKind(), r.GetName(), err)
			}
		}
		gvk := r.GetApiVersion() + " " + r.GetKind()
		if r.GetNamespace() != "regard" && gvk != "v1 Namespace" {
			t.Errorf("%s %s is in the namespace %q", gvk, r.GetName(), r.GetNamespace())
		}
		switch gvk {
		case "v1 Namespace":
			var o corev1.Namespace
			strict(&o)
			if o.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
				t.Error("the namespace lets in pods that aren't restricted")
			}
		case "v1 ConfigMap":
			var o corev1.ConfigMap
			strict(&o)
			b.configs[o.Name] = &o
		case "v1 ServiceAccount":
			var o corev1.ServiceAccount
			strict(&o)
			b.accounts[o.Name] = &o
		case "v1 PersistentVolumeClaim":
			var o corev1.PersistentVolumeClaim
			strict(&o)
			b.claims[o.Name] = &o
		case "v1 Service":
			var o corev1.Service
			strict(&o)
			b.services = append(b.services, &o)
		case "apps/v1 StatefulSet":
			var o appsv1.StatefulSet
			strict(&o)
			b.sets[o.Name], b.pods[o.Name] = &o, o.Spec.Template
			selects(t, o.Name, o.Spec.Selector, o.Spec.Template)
		case "apps/v1 Deployment":
			var o appsv1.Deployment
			strict(&o)
			b.pods[o.Name] = o.Spec.Template
			selects(t, o.Name, o.Spec.Selector, o.Spec.Template)
		case "batch/v1 Job":
			var o batchv1.Job
			strict(&o)
			b.pods[o.Name], b.jobs[o.Name] = o.Spec.Template, true
			if o.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
				t.Errorf("%s is started anew by %q", o.Name, o.Spec.Template.Spec.RestartPolicy)
			}
		case "policy/v1 PodDisruptionBudget":
			var o policyv1.PodDisruptionBudget
			strict(&o)
			b.budgets = append(b.budgets, &o)
		case "networking.k8s.io/v1 NetworkPolicy":
			var o networkingv1.NetworkPolicy
			strict(&o)
			b.networks = append(b.networks, &o)
		default: // a Secret, for one
			t.Errorf("%s %s doesn't belong here", gvk, r.GetName())
		}
	}
	if len(b.pods) != 4 || len(b.jobs) != 1 || len(b.services) < 3 || len(b.budgets) != 3 || len(b.networks) < 5 {
		t.Fatalf("%d kinds of pods, %d services, %d budgets, %d network policies", len(b.pods), len(b.services), len(b.budgets), len(b.networks))
	}
	return b
}

func selects(t *testing.T, name string, s *metav1.LabelSelector, p corev1.PodTemplateSpec) {
	t.Helper()
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil || sel.Empty() || !sel.Matches(labels.Set(p.Labels)) {
		t.Errorf("%s doesn't select its own pods: %v", name, err)
	}
}

// selected are the ports of pods that a selector matches, by number and by name.
func (b *built) selected(sel labels.Selector) (ports map[intstr.IntOrString]bool, n int) {
	ports = map[intstr.IntOrString]bool{}
	for _, p := range b.pods {
		if !sel.Matches(labels.Set(p.Labels)) {
			continue
		}
		n++
		for _, c := range p.Spec.Containers {
			for _, port := range c.Ports {
				ports[intstr.FromInt32(port.ContainerPort)], ports[intstr.FromString(port.Name)] = true, true
			}
		}
	}
	return ports, n
}

// theirs is what whoever deploys brings: see deploy/kubernetes/README.md, which names each.
var theirs = map[string]bool{
	"regard-api": true, "regard-providers": true, "regard-store": true, "regard-owner": true, "regard-trillian-client": true, "regard-trillian-server": true, "regard-trillian-store": true,
	"regard-vault-ca": true, "regard-witnesses": true,
}

// The pods are admitted under the Pod Security Standard "restricted", by the code that admits them, and all that they name is there.
func TestPods(t *testing.T) {
	b := build(t)
	readme, err := os.ReadFile(deploy("kubernetes", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name := range theirs {
		if !bytes.Contains(readme, []byte("`"+name+"`")) {
			t.Errorf("the README doesn't say what %s is", name)
		}
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range b.pods {
		for _, r := range evaluator.EvaluatePod(psapi.LevelVersion{Level: psapi.LevelRestricted, Version: psapi.LatestVersion()}, &p.ObjectMeta, &p.Spec) {
			if !r.Allowed {
				t.Errorf("%s: %s: %s", name, r.ForbiddenReason, r.ForbiddenDetail)
			}
		}
		if b.accounts[p.Spec.ServiceAccountName] == nil {
			t.Errorf("%s runs as %q", name, p.Spec.ServiceAccountName)
		}
		if a := p.Spec.AutomountServiceAccountToken; a == nil || *a {
			t.Errorf("%s has a token for the Kubernetes API", name)
		}
		volumes := map[string]bool{}
		if s := b.sets[name]; s != nil {
			for _, c := range s.Spec.VolumeClaimTemplates {
				volumes[c.Name] = true
			}
		}
		for _, v := range p.Spec.Volumes {
			volumes[v.Name] = true
			switch {
			case v.ConfigMap != nil:
				if b.configs[v.ConfigMap.Name] == nil && !theirs[v.ConfigMap.Name] {
					t.Errorf("%s mounts %s, which nobody makes", name, v.ConfigMap.Name)
				}
			case v.Secret != nil:
				// regard config check refuses a key that others can read.
				if m := v.Secret.DefaultMode; !theirs[v.Secret.SecretName] || m == nil || *m != 0o440 {
					t.Errorf("%s mounts %s", name, v.Secret.SecretName)
				}
			case v.PersistentVolumeClaim != nil:
				if b.claims[v.PersistentVolumeClaim.ClaimName] == nil {
					t.Errorf("%s mounts %s", name, v.PersistentVolumeClaim.ClaimName)
				}
			}
		}
		for _, c := range p.Spec.Containers {
			if s := c.SecurityContext; s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
				t.Errorf("%s may change its own programs", name)
			}
			if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
				t.Errorf("%s has no bounds", name)
			}
			if !b.jobs[name] && (c.ReadinessProbe == nil || c.LivenessProbe == nil) {
				t.Errorf("%s isn't looked after", name)
			}
			ports, _ := b.selected(labels.SelectorFromSet(p.Labels))
			for _, probe := range []*corev1.Probe{c.ReadinessProbe, c.LivenessProbe, c.StartupProbe} {
				if probe == nil {
					continue
				}
				if g := probe.HTTPGet; g != nil && !ports[g.Port] || probe.TCPSocket != nil && !ports[probe.TCPSocket.Port] {
					t.Errorf("%s is probed on a port that it doesn't have", name)
				}
			}
			for _, m := range c.VolumeMounts {
				if !volumes[m.Name] {
					t.Errorf("%s mounts %s, which there isn't", name, m.Name)
				}
				if (strings.HasPrefix(m.MountPath, "/etc/") || strings.HasPrefix(m.MountPath, "/var/run/secrets/")) && !m.ReadOnly {
					t.Errorf("%s may write to %s", name, m.MountPath)
				}
			}
			for _, e := range c.Env {
				if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
					t.Errorf("%s has a secret in its environment: %s", name, e.Name)
				}
			}
		}
	}
}

// The databases are prepared for the log that the brokers are of, from a secret that no other pod has.
func TestInit(t *testing.T) {
	b := build(t)
	args := strings.Join(b.pods["regard-init"].Spec.Containers[0].Args, " ")
	origin := ""
	for name, c := range b.configs {
		if strings.HasPrefix(name, "regard-") && c.Data["regard.yaml"] != "" {
			var said struct{ Origin string }
			if err := yaml.Unmarshal([]byte(c.Data["regard.yaml"]), &said); err != nil {
				t.Fatal(err)
			}
			origin = said.Origin
		}
	}
	if origin == "" || !strings.HasPrefix(args, "cluster init --origin "+origin+" --store-url-file ") {
		t.Errorf("origin %q, the job runs %s", origin, args)
	}
	for name, p := range b.pods {
		for _, v := range p.Spec.Volumes {
			if v.Secret != nil && v.Secret.SecretName == "regard-owner" && name != "regard-init" {
				t.Errorf("%s may do what the owners may", name)
			}
		}
	}
}

// Services, budgets and network policies are about pods that there are, and ports that these have.
func TestSelectors(t *testing.T) {
	b := build(t)
	heads := map[string]bool{}
	for _, s := range b.services {
		ports, n := b.selected(labels.SelectorFromSet(s.Spec.Selector))
		if n != 1 {
			t.Errorf("the service %s is of %d kinds of pods", s.Name, n)
		}
		for _, p := range s.Spec.Ports {
			if !ports[p.TargetPort] {
				t.Errorf("the service %s leads to port %s, which nobody has", s.Name, p.TargetPort.String())
			}
		}
		heads[s.Name] = s.Spec.ClusterIP == corev1.ClusterIPNone
	}
	for name, s := range b.sets {
		if !heads[s.Spec.ServiceName] {
			t.Errorf("the pods of %s have no names: there is no headless service %s", name, s.Spec.ServiceName)
		}
	}
	kinds := map[string]bool{}
	for _, p := range b.budgets {
		sel, err := metav1.LabelSelectorAsSelector(p.Spec.Selector)
		if err != nil {
			t.Fatal(err)
		}
		if _, n := b.selected(sel); n != 1 {
			t.Errorf("the budget %s is of %d kinds of pods", p.Name, n)
		}
		kinds[sel.String()] = true
	}
	if len(kinds) != len(b.pods)-len(b.jobs) {
		t.Errorf("budgets for %d of %d kinds of pods", len(kinds), len(b.pods))
	}
	closed := false
	for _, p := range b.networks {
		sel, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
		if err != nil {
			t.Fatal(err)
		}
		ports, n := b.selected(sel)
		if n == 0 {
			t.Errorf("the network policy %s is about nobody", p.Name)
		}
		if sel.Empty() && len(p.Spec.PolicyTypes) == 2 && len(p.Spec.Ingress) == 0 && len(p.Spec.Egress) == 0 {
			closed = true
		}
		for _, in := range p.Spec.Ingress {
			for _, port := range in.Ports {
				if !ports[*port.Port] {
					t.Errorf("the network policy %s opens port %s, which nobody has", p.Name, port.Port.String())
				}
			}
		}
		for _, out := range p.Spec.Egress {
			for _, to := range out.To {
				if to.NamespaceSelector != nil || to.PodSelector == nil {
					continue
				}
				sel, err := metav1.LabelSelectorAsSelector(to.PodSelector)
				if err != nil {
					t.Fatal(err)
				}
				theirs, _ := b.selected(sel)
				for _, port := range out.Ports {
					if !theirs[*port.Port] {
						t.Errorf("the network policy %s lets reach port %s, which nobody has", p.Name, port.Port.String())
					}
				}
			}
		}
	}
	if !closed {
		t.Error("what isn't named in a network policy isn't refused")
	}
}

// The base can take no file from outside itself; so the static server's configuration is there twice, and the same.
func TestCaddyfiles(t *testing.T) {
	var text [2][]byte
	for i, f := range []string{deploy("compose", "Caddyfile"), deploy("kubernetes", "base", "Caddyfile")} {
		var err error
		if text[i], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(text[0], text[1]) {
		t.Error("the Caddyfiles of deploy/compose and of deploy/kubernetes differ")
	}
}
