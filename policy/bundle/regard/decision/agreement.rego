# L'habilitation / The agreement
# The one agreement on which the request relies. Without it only its absence is a reason, so that a refusal doesn't list
# what follows from it.
package regard.decision

# METADATA
# title: Il y a une habilitation / There is an agreement
agreement_present if input.agreement.id

# METADATA
# title: L'habilitation est en vigueur / The agreement is in force
agreement_active if input.agreement.state == "active"

# METADATA
# title: L'habilitation a commencé / The agreement has begun
# description: Its first instant counts.
agreement_begun if input.time >= input.agreement.not_before

# METADATA
# title: L'habilitation n'est pas échue / The agreement has not ended
# description: Its last instant counts.
agreement_not_ended if input.time <= input.agreement.not_after

# METADATA
# title: L'habilitation est celle de l'administration / The agreement is the agency's
agreement_of_agency if input.agreement.agency == input.agency.id

# METADATA
# title: L'habilitation porte sur le service / The agreement is about the service
agreement_of_service if input.agreement.service == input.service.id

# METADATA
# title: La finalité est couverte / The purpose is covered
purpose_covered if input.purpose in input.agreement.purposes

# METADATA
# title: La base légale est couverte / The legal basis is covered
legal_basis_covered if input.legal_basis in input.agreement.legal_bases

# METADATA
# title: Aucune habilitation / No agreement
reasons contains {
	"code": "agreement.none",
	"fr": "Aucune habilitation ne permet à cette administration de demander ces données.",
	"en": "No agreement allows this agency to ask for these data.",
} if {
	not agreement_active
	not agreement_present
}

# METADATA
# title: Habilitation révoquée / Revoked agreement
reasons contains {
	"code": "agreement.revoked",
	"fr": "L'habilitation a été révoquée.",
	"en": "The agreement was revoked.",
} if {
	agreement_present
	not agreement_active
}

# METADATA
# title: Habilitation pas encore valable / Agreement not yet valid
reasons contains {
	"code": "agreement.not_yet_valid",
	"fr": "L'habilitation n'est pas encore valable.",
	"en": "The agreement is not yet valid.",
} if {
	agreement_present
	not agreement_begun
}

# METADATA
# title: Habilitation échue / Agreement no longer valid
reasons contains {
	"code": "agreement.no_longer_valid",
	"fr": "L'habilitation n'est plus valable.",
	"en": "The agreement is no longer valid.",
} if {
	agreement_present
	not agreement_not_ended
}

# METADATA
# title: Habilitation d'une autre administration / Agreement of another agency
reasons contains {
	"code": "agreement.other_agency",
	"fr": "L'habilitation est celle d'une autre administration.",
	"en": "The agreement is another agency's.",
} if {
	agreement_present
	not agreement_of_agency
}

# METADATA
# title: Habilitation pour un autre service / Agreement about another service
reasons contains {
	"code": "agreement.other_service",
	"fr": "L'habilitation porte sur un autre service.",
	"en": "The agreement is about another service.",
} if {
	agreement_present
	not agreement_of_service
}

# METADATA
# title: Finalité hors habilitation / Purpose outside the agreement
reasons contains {
	"code": "purpose.not_covered",
	"fr": sprintf("L'habilitation ne couvre pas la finalité « %s ».", [input.purpose]),
	"en": sprintf("The agreement does not cover the purpose \"%s\".", [input.purpose]),
} if {
	agreement_present
	not purpose_covered
}

# METADATA
# title: Base légale hors habilitation / Legal basis outside the agreement
reasons contains {
	"code": "legal_basis.not_covered",
	"fr": sprintf("L'habilitation ne couvre pas la base légale « %s ».", [input.legal_basis]),
	"en": sprintf("The agreement does not cover the legal basis \"%s\".", [input.legal_basis]),
} if {
	agreement_present
	not legal_basis_covered
}
