package regard.decision_test

import data.regard.decision

test_grants_what_was_asked_for if {
	decision.grant == {
		"scopes": ["enfants", "quotient"],
		"fields": {"enfants": ["/enfants/nom", "/enfants/sexe"], "quotient": ["/quotient"]},
		"obligations": ["notify_person"],
	} with input as request
	codes(request) == set()
}

test_grants_less_than_the_agreement_covers if {
	granted(asking(["enfants"], {"enfants": ["/enfants/nom"]}))
}

test_grants_nothing_on_an_empty_input if {
	not granted({})
}

test_gives_every_reason_at_once if {
	refused(
		but({"has_context": false, "has_object": false, "purpose": "curiosite"}),
		{"context.missing", "object.missing", "purpose.not_covered"},
	)
}

test_gives_a_sentence_in_each_language if {
	every reason in decision.reasons {
		endswith(reason.fr, ".")
		endswith(reason.en, ".")
		reason.fr != reason.en
	} with input as {}
}
