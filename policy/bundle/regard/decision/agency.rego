# L'administration qui demande / The agency that asks
package regard.decision

# METADATA
# title: L'administration peut demander / The agency may ask
agency_active if input.agency.state == "active"

# METADATA
# title: Administration inconnue / Unknown agency
reasons contains {
	"code": "agency.unknown",
	"fr": "L'administration qui demande n'est pas connue.",
	"en": "The agency that asks is not known.",
} if {
	not agency_active
	input.agency.id == ""
}

# METADATA
# title: Administration retirée / Retired agency
reasons contains {
	"code": "agency.retired",
	"fr": "L'administration qui demande n'est plus autorisée à utiliser le service d'échange.",
	"en": "The agency that asks may no longer use the exchange.",
} if {
	not agency_active
	input.agency.id != ""
}
