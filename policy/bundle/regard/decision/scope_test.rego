package regard.decision_test

# The request with other scopes, of which the service knows some.
asking(scopes, known) := object.union(
	object.remove(request, ["scopes", "service"]),
	{"scopes": scopes, "service": object.union(object.remove(request.service, ["scopes"]), {"scopes": known})},
)

test_no_scope if {
	refused(asking([], {}), {"scope.none"})
}

test_scope_outside_the_agreement_refuses_the_whole_request if {
	asked := asking(["enfants", "revenus", "zones"], {"enfants": ["/e"], "revenus": ["/r"], "zones": ["/z"]})
	refused(asked, {"scope.not_covered"})
	sentences(asked, "scope.not_covered") == [[
		"L'habilitation ne couvre pas : revenus, zones.",
		"The agreement does not cover: revenus, zones.",
	]]
}

test_unknown_scope_refuses_the_whole_request if {
	asked := asking(["adresse", "enfants", "quotient"], {"enfants": ["/e"]})
	refused(asked, {"scope.unknown"})
	sentences(asked, "scope.unknown") == [[
		"Le service ne connaît pas : adresse, quotient.",
		"The service does not know: adresse, quotient.",
	]]
}

test_scope_without_an_agreement_is_not_a_reason_of_its_own if {
	refused(
		object.remove(asking(["revenus"], {"revenus": ["/r"]}), ["agreement", "agreement_digest"]),
		{"agreement.none"},
	)
}

test_subject_type_that_the_service_does_not_take if {
	refused(but({"subject_type": "ine"}), {"subject_type.not_accepted"})
	sentences(but({"subject_type": "ine"}), "subject_type.not_accepted") == [[
		"Le service ne prend pas les identifiants de type « ine ».",
		"The service does not take subjects of type \"ine\".",
	]]
}
