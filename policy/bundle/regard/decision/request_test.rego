package regard.decision_test

test_missing_recipient if {
	refused(but({"recipient": {"siret": "", "valid": false}}), {"recipient.missing"})
}

test_valid_recipient_is_not_called_missing if {
	codes(but({"recipient": {"siret": "", "valid": true}})) == set()
}

test_invalid_recipient if {
	refused(but({"recipient": {"siret": "21750001600018", "valid": false}}), {"recipient.invalid"})
}

test_recipient_is_the_subject if {
	refused(but({"recipient_is_subject": true}), {"recipient.is_subject"})
}

test_recipient_that_may_be_the_subject if {
	refused(object.remove(request, ["recipient_is_subject"]), {"recipient.is_subject"})
}

test_missing_context if {
	refused(but({"has_context": false}), {"context.missing"})
}

test_missing_object if {
	refused(but({"has_object": false}), {"object.missing"})
}
