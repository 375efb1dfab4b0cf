// Package hostile is an operator built to cheat, and the test suite of what stops it.
//
// An [Operator] holds all of an operator's keys and writes whatever it likes: it signs any tree, files under any label, states any index, and shows each reader what
// it wants. It is honest until one of its [Cheats] is set. The tests play the same few days with each cheat and run the real detectors on what comes out: package
// proof, the commands of regard-audit, a witness, the holders' libraries. Each must accuse the cheat, at the time the table in docs/threat-model.md says, and must not
// accuse the same days played honestly. That table is made from the tests: go test ./ledger/hostile -update.
//
// What it shows: that each attack in the list is detected by whom, with what, after how long, and what nobody detects. What it doesn't: that there is no other attack.
//
// It is for tests alone: it keeps keys and people in memory, in clear.
package hostile
