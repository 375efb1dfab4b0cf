# An operator who rotates and retires root keys. It can neither unwrap a key nor sign, and can't make a key exportable.

path "transit/keys/regard-wrap" {
  capabilities = ["read"]
}

path "transit/keys/regard-wrap/rotate" {
  capabilities = ["update"]
}

path "transit/keys/regard-wrap/config" {
  capabilities       = ["update"]
  allowed_parameters = {
    "min_decryption_version" = []
    "min_encryption_version" = []
  }
}

path "transit/keys/regard-checkpoint" {
  capabilities = ["read"]
}

path "transit/keys/regard-checkpoint/rotate" {
  capabilities = ["update"]
}

path "transit/keys/regard-checkpoint/config" {
  capabilities       = ["update"]
  allowed_parameters = {
    "min_decryption_version" = []
    "min_encryption_version" = []
  }
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
