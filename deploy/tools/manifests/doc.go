// Package manifests checks, by the libraries that their users read them with, what deploy/ says to other programs: Compose, Docker, Kubernetes and Kustomize, Prometheus, Grafana. It is a module of
// its own, so that these libraries stay out of the product's.
package manifests
