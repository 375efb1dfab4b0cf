package regard.decision_test

test_no_agreement_is_the_only_reason if {
	refused(object.remove(request, ["agreement", "agreement_digest"]), {"agreement.none"})
}

test_active_agreement_is_not_called_none if {
	codes(object.union(
		object.remove(request, ["agreement"]),
		{"agreement": object.remove(agreement, ["id"])},
	)) == set()
}

test_revoked_agreement if {
	refused(but({"agreement": {"state": "revoked"}}), {"agreement.revoked"})
}

test_agreement_not_yet_valid if {
	refused(but({"time": 999}), {"agreement.not_yet_valid"})
}

test_agreement_valid_at_its_first_instant if {
	granted(but({"time": 1000}))
}

test_agreement_valid_at_its_last_instant if {
	granted(but({"time": 2000}))
}

test_agreement_no_longer_valid if {
	refused(but({"time": 2001}), {"agreement.no_longer_valid"})
}

test_agreement_of_another_agency if {
	refused(but({"agreement": {"agency": "departement"}}), {"agreement.other_agency"})
}

test_agreement_about_another_service if {
	refused(but({"agreement": {"service": "revenu-fiscal"}}), {"agreement.other_service"})
}

test_purpose_outside_the_agreement if {
	refused(but({"purpose": "curiosite"}), {"purpose.not_covered"})
	sentences(but({"purpose": "curiosite"}), "purpose.not_covered") == [[
		"L'habilitation ne couvre pas la finalité « curiosite ».",
		"The agreement does not cover the purpose \"curiosite\".",
	]]
}

test_legal_basis_outside_the_agreement if {
	refused(but({"legal_basis": "habitude"}), {"legal_basis.not_covered"})
	sentences(but({"legal_basis": "habitude"}), "legal_basis.not_covered") == [[
		"L'habilitation ne couvre pas la base légale « habitude ».",
		"The agreement does not cover the legal basis \"habitude\".",
	]]
}
