package regard.decision_test

test_unknown_agency if {
	refused(but({"agency": {"id": ""}, "agreement": {"agency": ""}}), {"agency.unknown"})
}

test_unknown_agency_is_not_called_retired if {
	refused(
		but({"agency": {"id": "", "siret": "", "state": "unknown"}, "agreement": {"agency": ""}}),
		{"agency.unknown"},
	)
}

test_retired_agency if {
	refused(but({"agency": {"state": "retired"}}), {"agency.retired"})
}
