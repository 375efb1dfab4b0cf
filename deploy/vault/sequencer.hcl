# A broker that may lead, in addition to broker.hcl: sign checkpoints and read the public halves of the signing key.

path "transit/sign/regard-checkpoint" {
  capabilities = ["update"]
}

path "transit/keys/regard-checkpoint" {
  capabilities = ["read"]
}
