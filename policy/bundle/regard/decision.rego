# METADATA
# title: Décision d'échange de données / Decision on an exchange of data
# description: |
#   Whether a public body may obtain data that another one holds (code des relations entre le public et l'administration,
#   articles L. 114-8 and following). A request is granted if all conditions hold, and refused in whole otherwise, with
#   every reason. The conditions and the reasons stand in the other files, by subject.
package regard

# METADATA
# title: Réponse / Answer
# description: What the broker obeys and records. Fields are listed by scope.
# entrypoint: true
decision := {
	"allow": true,
	"scopes": input.scopes,
	"fields": object.filter(input.service.scopes, input.scopes),
	"obligations": obligations,
	"reasons": [],
} if {
	allow
}

decision := {
	"allow": false,
	"scopes": [],
	"fields": {},
	"obligations": [],
	"reasons": reasons,
} if {
	not allow
}

# METADATA
# title: Toutes les conditions / All conditions
# description: A condition that can't be established doesn't hold.
allow if {
	agency_active
	agreement_active
	agreement_begun
	agreement_not_ended
	agreement_of_agency
	agreement_of_service
	purpose_covered
	legal_basis_covered
	scopes_asked
	scopes_covered
	scopes_declared
	subject_type_accepted
	recipient_valid
	recipient_not_subject
	context_stated
	object_stated
}

# METADATA
# title: Obligations
# description: What the agreement obliges the broker to do with the answer.
obligations contains obligation if {
	some obligation in input.agreement.obligations
}
