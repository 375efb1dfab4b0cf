package regard.decision_test

test_unknown_agency if {
	refused(
		but({"agency": {"id": "", "siret": "", "state": "unknown"}, "agreement": {"agency": ""}}),
		{"agency.unknown"},
	)
}

test_known_agency_without_a_state if {
	refused(but({"agency": {"state": ""}}), {"agency.retired"})
}

test_retired_agency if {
	refused(but({"agency": {"state": "retired"}}), {"agency.retired"})
}

test_active_agency_is_not_called_unknown if {
	codes(but({"agency": {"id": ""}, "agreement": {"agency": ""}})) == set()
}
