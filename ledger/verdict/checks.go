package verdict

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// Check is one part of the verification, with its evidence.
type Check struct {
	Code  string     `json:"code"`
	Title string     `json:"title"`
	State CheckState `json:"state"`
	// Says and Not are what it proved, and what it didn't.
	Says     []string `json:"says,omitempty"`
	Not      []string `json:"not_proven,omitempty"`
	Evidence []Fact   `json:"evidence,omitempty"`
}

// CheckState says how a check ended.
type CheckState string

// The ends of checks.
const (
	Held       CheckState = "held"
	Partly     CheckState = "partly" // something of it isn't proven
	Failed     CheckState = "failed"
	NotReached CheckState = "not_reached"
)

// Fact is a piece of evidence: a number, a time, a hash, a key.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// In writes it on one line.
func (f Fact) In(l Lang) string { return f.Name + l.pick(" : ", ": ") + f.Value }

type checkCode int

// The checks in the order in which they are made; what belongs to none is at the end.
const (
	checkSignature checkCode = iota
	checkChain
	checkLog
	checkComplete
	checkRecords
	checkDelays
	checkAudits
	checkOlder
	checkScope
	checkCodes
)

var checkNames = [checkCodes]struct{ code, fr, en string }{
	checkSignature: {"signature", "Qui a signé, et qui l'a vu", "Who signed, and who saw it"},
	checkChain:     {"chain", "Les jours se suivent sans trou", "The days follow each other without a gap"},
	checkLog:       {"log", "Ce qui est montré est dans le registre public", "What is shown is in the public log"},
	checkComplete:  {"complete", "Rien ne manque dans votre liste", "Nothing is missing from your list"},
	checkRecords:   {"records", "Chaque accès est montré tel qu'enregistré", "Each request is shown as it was recorded"},
	checkDelays:    {"delays", "Les accès différés par la loi sont comptés", "Requests delayed by law are counted"},
	checkAudits:    {"audits", "Des auditeurs ont refait le compte", "Auditors counted again"},
	checkOlder:     {"older", "Rien n'a changé depuis l'historique plus ancien", "Nothing has changed since the older history"},
}

// checkOf says to which check a step of verifying belongs.
var checkOf = map[proof.HistoryStep]checkCode{
	proof.StepCheckpoint: checkSignature, proof.StepMarkers: checkChain, proof.StepTree: checkLog, proof.StepRolls: checkComplete, proof.StepEntries: checkComplete,
	proof.StepRecords: checkRecords, proof.StepDeferrals: checkDelays, proof.StepAudits: checkAudits, proof.StepCompare: checkOlder,
}

// checks lists them. failed is the step in which the history was refuted, 0 if everything holds.
func checks(in Input, failed proof.HistoryStep) []Check {
	var w *words
	if failed == 0 {
		w = newWords(in.Verdict, in.Lang)
	}
	var out []Check
	for at := range checkScope {
		if at == checkOlder && failed != proof.StepCompare && (w == nil || !in.Verdict.Compared) {
			continue
		}
		c := Check{Code: checkNames[at].code, Title: in.Lang.pick(checkNames[at].fr, checkNames[at].en), State: Held}
		switch {
		case failed != 0 && at == checkOf[failed]:
			c.State, c.Not = Failed, []string{in.Err.Error()}
		case failed != 0 && at > checkOf[failed]:
			c.State = NotReached
		case failed == 0:
			c.Says, c.Not, c.Evidence = w.says[at], w.not[at], evidence(in, at)
			if len(c.Not) > 0 {
				c.State = Partly
			}
		}
		out = append(out, c)
	}
	return out
}

// evidence is what was checked in numbers and hashes, for a history in which everything holds.
func evidence(in Input, at checkCode) []Fact {
	l, v, h := in.Lang, in.Verdict, in.History
	var out []Fact
	add := func(fr, en, value string) { out = append(out, Fact{l.pick(fr, en), value}) }
	count := func(fr, en string, n int) { add(fr, en, strconv.Itoa(n)) }
	switch at {
	case checkSignature:
		add("registre", "log", v.Origin)
		add("entrées dans l'arbre", "entries in the tree", strconv.FormatUint(v.Size, 10))
		add("racine", "root", base64.StdEncoding.EncodeToString(v.Root[:]))
		for _, c := range v.Witnesses {
			value := c.Name
			if c.Unix > 0 && c.Unix < 1<<40 {
				value += ", " + time.Unix(int64(c.Unix), 0).UTC().Format(time.RFC3339) // #nosec G115 -- bounded above
			}
			add("témoin", "witness", value)
		}
	case checkChain:
		count("bornes enchaînées", "markers in the chain", len(h.Markers))
		add("première période", "first epoch", fmt.Sprintf("%d, %s", v.Epochs.From, utc(v.Opened)))
		add("dernière période", "last epoch", fmt.Sprintf("%d, %s", v.Epochs.To, utc(v.Closed)))
		last := proof.LeafHash(h.Markers[len(h.Markers)-1])
		add("empreinte de la dernière borne", "hash of the last marker", last.String())
	case checkLog:
		count("entrées trouvées dans l'arbre", "entries found in the tree", len(h.Entries))
		count("empreintes de la preuve", "hashes of the proof", len(h.Nodes))
	case checkComplete:
		var labels, rolls, leaves int
		for i := range h.Epochs {
			labels += len(h.Epochs[i].Labels)
			for k := range h.Epochs[i].Rolls {
				if n := len(h.Epochs[i].Rolls[k].Leaves); n > 0 {
					rolls, leaves = rolls+1, leaves+n
				}
			}
		}
		count("étiquettes vérifiées (une par identifiant et période)", "labels verified (one an identifier and epoch)", labels)
		count("listes ouvertes en entier", "rolls opened as a whole", rolls)
		count("places dans ces listes, remplissage compris", "places in these rolls, padding included", leaves)
		count("absences prouvées", "absences proven", labels-rolls-v.LostRolls)
	case checkRecords:
		for s := proof.RecordOpen; s <= proof.RecordUnknown; s++ {
			if n := v.Count(s); n > 0 {
				count(recordName(s, French), recordName(s, English), n)
			}
		}
	case checkDelays:
		add("différés, pour tout le monde", "pending, of anybody", strconv.FormatUint(v.Deferrals.Pending, 10))
		add("dont en retard", "of these overdue", strconv.FormatUint(v.Deferrals.Overdue, 10))
	case checkAudits:
		count("attestations vérifiées", "statements verified", len(h.Audits))
		add("périodes sans attestation", "epochs without a statement", strconv.FormatUint(v.Unaudited, 10))
	}
	return out
}

func recordName(s proof.RecordState, l Lang) string {
	switch s {
	case proof.RecordOpen:
		return l.pick("fiches ouvertes", "records open")
	case proof.RecordErased:
		return l.pick("fiches effacées", "records erased")
	case proof.RecordErasing:
		return l.pick("fiches en cours d'effacement", "records being erased")
	case proof.RecordRetired:
		return l.pick("fiches au terme de leur conservation", "records at the end of retention")
	case proof.RecordLost:
		return l.pick("fiches perdues", "records lost")
	}
	return l.pick("fiches d'un type inconnu", "records of an unknown type")
}
