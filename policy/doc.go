// Package policy decides whether an agency may obtain the data it asks for, by the Rego rules of a bundle that anybody can read.
//
// What it guarantees: without a decision of the bundle in force there is no [Grant]: only an [Engine] mints one, the zero value is not
// valid, and an undefined, malformed or failing policy refuses (code policy.error). A bundle can only narrow what was asked for. The
// bundle was logged, by [Config.Activate], before the first decision under it. A decision depends on nothing but the bytes of the
// bundle and the canonical bytes of its [Input], both recorded: [Replay] gives the same answer at any time, on any host (no clock, network,
// randomness, data file or memory of other decisions). An input has no place for an identity.
//
// What it does not: it believes the broker about the facts in the input (who asks, what the service declares, whether the recipient is
// the subject); only the agreement is held against its logged digest. Whether the rules are lawful, it cannot know. Bundles are the
// operator's code: they are kept from the network and bounded in time, but one can be written that uses much memory. A replay
// needs an engine that understands the Rego of its day. A decision that was under way while another bundle entered into force names
// the one it was made under.
package policy
