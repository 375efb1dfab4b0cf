package regard.decision_test

import data.regard.decision

# A request that is granted. The tests change one thing at a time.
request := {
	"agency": {"id": "ville", "siret": "21750001600019", "state": "active"},
	"agreement": agreement,
	"agreement_digest": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
	"channel": "api",
	"has_context": true,
	"has_object": true,
	"legal_basis": "crpa-l114-8",
	"purpose": "cantine",
	"recipient": {"siret": "21750001600019", "valid": true},
	"recipient_is_subject": false,
	"schema": "regard/input@v1",
	"scopes": ["enfants", "quotient"],
	"service": {
		"id": "quotient-familial",
		"provider": "cnaf",
		"scopes": {"enfants": ["/enfants/nom", "/enfants/sexe"], "quotient": ["/quotient"]},
		"subject_types": ["nir", "pivot"],
		"version": 2,
	},
	"subject_type": "pivot",
	"time": 1500,
}

agreement := {
	"agency": "ville",
	"id": "ville-cantine",
	"legal_bases": ["crpa-l114-8", "crpa-r114-9-1"],
	"not_after": 2000,
	"not_before": 1000,
	"obligations": ["notify_person"],
	"purposes": ["cantine", "creche"],
	"schema": "regard/agreement@v1",
	"scopes": ["adresse", "enfants", "quotient"],
	"service": "quotient-familial",
	"state": "active",
	"version": 3,
}

# The request with some values changed.
but(changes) := object.union(request, changes)

granted(asked) if decision.grant with input as asked

codes(asked) := {reason.code | some reason in decision.reasons with input as asked}

# Refused, for these reasons and no other.
refused(asked, expected) if {
	not granted(asked)
	codes(asked) == expected
}

# The sentences that go with a code.
sentences(asked, code) := [[reason.fr, reason.en] |
	some reason in decision.reasons with input as asked
	reason.code == code
]
