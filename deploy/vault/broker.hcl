# Every broker: wrap and unwrap data keys, nothing else. It can't sign, rotate, read a key, or touch another key.
# (No rewrap: Vault's rewrap endpoint has no associated data, so that is done by decrypt and encrypt.)

path "transit/encrypt/regard-wrap" {
  capabilities = ["update"]
}

path "transit/decrypt/regard-wrap" {
  capabilities = ["update"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
