# Ce que la demande doit dire / What the request must say
package regard.decision

# METADATA
# title: Le destinataire a un SIRET valide / The recipient has a valid SIRET
# description: The broker has checked the digits, and the recorded input is refused if it was wrong about them.
recipient_valid if input.recipient.valid

# METADATA
# title: Le destinataire n'est pas l'organisme visé / The recipient is not the body that is asked about
# description: Nobody asks about themselves in another's name, nor has themselves named as the reader of their own data.
recipient_not_subject if input.recipient_is_subject == false

# METADATA
# title: Le contexte est indiqué / The context is stated
context_stated if input.has_context

# METADATA
# title: L'objet est indiqué / The object is stated
object_stated if input.has_object

# METADATA
# title: Destinataire absent / Missing recipient
reasons contains {
	"code": "recipient.missing",
	"fr": "La demande n'indique pas le destinataire des données.",
	"en": "The request doesn't state the recipient of the data.",
} if {
	not recipient_valid
	input.recipient.siret == ""
}

# METADATA
# title: Destinataire invalide / Invalid recipient
reasons contains {
	"code": "recipient.invalid",
	"fr": "Le SIRET du destinataire n'est pas valide.",
	"en": "The recipient's SIRET is not valid.",
} if {
	not recipient_valid
	input.recipient.siret != ""
}

# METADATA
# title: Destinataire visé par la demande / Recipient is the subject
reasons contains {
	"code": "recipient.is_subject",
	"fr": "Le destinataire est l'organisme sur lequel porte la demande.",
	"en": "The recipient is the very body that the request is about.",
} if {
	not recipient_not_subject
}

# METADATA
# title: Contexte absent / Missing context
reasons contains {
	"code": "context.missing",
	"fr": "La demande n'indique pas son contexte.",
	"en": "The request doesn't state its context.",
} if {
	not context_stated
}

# METADATA
# title: Objet absent / Missing object
reasons contains {
	"code": "object.missing",
	"fr": "La demande n'indique pas son objet.",
	"en": "The request doesn't state its object.",
} if {
	not object_stated
}
