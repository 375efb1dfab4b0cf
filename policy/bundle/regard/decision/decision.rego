# METADATA
# title: Décision d'échange de données / Decision on an exchange of data
# description: |
#   Whether a public body may obtain data that another one holds (code des relations entre le public et l'administration,
#   articles L. 114-8 and following). A request is granted if every condition of `allow` holds; otherwise it is refused in
#   whole, with every reason. Each reason is that one of these conditions doesn't hold. Conditions and reasons stand in the
#   other files, by subject.
package regard.decision

# METADATA
# title: Accord / Grant
# description: What the broker may ask for and must do. Without it the request is refused. Fields are listed by scope.
# entrypoint: true
grant := {
	"scopes": input.scopes,
	"fields": input.service.scopes,
	"obligations": obligations,
} if {
	allow
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
obligations := input.agreement.obligations
