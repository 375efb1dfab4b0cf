# Les données demandées / The data asked for
# An agency asks for what it may have. One scope too many and the whole request is refused.
package regard.decision

# METADATA
# title: Au moins un périmètre est demandé / At least one scope is asked for
scopes_asked if input.scopes[0]

# METADATA
# title: L'habilitation couvre tous les périmètres / The agreement covers every scope
scopes_covered if {
	every scope in input.scopes {
		scope in input.agreement.scopes
	}
}

# METADATA
# title: Le service connaît tous les périmètres / The service knows every scope
# description: |
#   `input.service.scopes` holds those of the scopes asked for that the service knows, and no other: the engine sees to it.
#   So none is missing if there are as many.
scopes_declared if count(input.service.scopes) == count(input.scopes)

# METADATA
# title: Le service prend ce type d'identifiant / The service takes this type of subject
subject_type_accepted if input.subject_type in input.service.subject_types

# METADATA
# title: Aucun périmètre / No scope
reasons contains {
	"code": "scope.none",
	"fr": "La demande ne dit pas quelles données elle vise.",
	"en": "The request doesn't say which data it asks for.",
} if {
	not scopes_asked
}

# METADATA
# title: Périmètre hors habilitation / Scope outside the agreement
reasons contains {
	"code": "scope.not_covered",
	"fr": sprintf("L'habilitation ne couvre pas : %s.", [names]),
	"en": sprintf("The agreement does not cover: %s.", [names]),
} if {
	agreement_present
	not scopes_covered
	names := concat(", ", [scope | some scope in input.scopes; not scope in input.agreement.scopes])
}

# METADATA
# title: Périmètre inconnu / Unknown scope
reasons contains {
	"code": "scope.unknown",
	"fr": sprintf("Le service ne connaît pas : %s.", [names]),
	"en": sprintf("The service does not know: %s.", [names]),
} if {
	not scopes_declared
	names := concat(", ", [scope | some scope in input.scopes; not input.service.scopes[scope]])
}

# METADATA
# title: Type d'identifiant refusé / Subject type not accepted
reasons contains {
	"code": "subject_type.not_accepted",
	"fr": sprintf("Le service ne prend pas les identifiants de type « %s ».", [input.subject_type]),
	"en": sprintf("The service does not take subjects of type \"%s\".", [input.subject_type]),
} if {
	not subject_type_accepted
}
