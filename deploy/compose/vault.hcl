# One Vault, with its data on a volume. For more than one machine: integrated storage with three of them.
ui            = false
disable_mlock = false
api_addr      = "https://vault:8200"
cluster_addr  = "https://vault:8201"

listener "tcp" {
  address         = "0.0.0.0:8200"
  tls_cert_file   = "/run/vault/vault.pem"
  tls_key_file    = "/run/vault/vault.key"
  tls_min_version = "tls12"
}

storage "raft" {
  path    = "/vault/file"
  node_id = "vault"
}
