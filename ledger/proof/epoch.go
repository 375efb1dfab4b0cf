package proof

// EpochProof shows all entries that are filed under a subject in a closed
// epoch, or that there are none. It is what a person gets, and what nobody else
// gets: it opens every leaf of the roll.
type EpochProof struct {
	Marker     Proven // closes the epoch
	Opener     Index  // log index of the marker that opens it
	OpenerText []byte
	VRFProof   []byte // of the subject's label, 80 bytes
	Bucket     Bucket // of the label
	BucketPath []Hash
	Leaves     []OpenLeaf // the whole roll, in the order of the tree; empty if there is none
}

// EpochEntries is what an EpochProof shows.
type EpochEntries struct {
	Epoch   Epoch
	Opened  Time // as the operator says
	Closed  Time
	Label   Label
	Indexes []Index // of all entries of the subject, increasing; empty if there are none
}

// Verify checks the proof for a subject under a verified checkpoint. Whether
// that is witnessed is for the caller to see to: without the quorum others may
// be shown another index.
func (p *EpochProof) Verify(cp Checkpoint, s Subject) (EpochEntries, error) {
	if cp.IsZero() {
		return EpochEntries{}, unproven("epoch: no verified checkpoint")
	}
	closing, opener, err := verifyMarkers(cp, p.Marker, p.Opener, p.OpenerText)
	if err != nil {
		return EpochEntries{}, err
	}
	z, err := VerifyLabel(opener.VRF, s, opener.Epoch, p.VRFProof)
	if err != nil {
		return EpochEntries{}, err
	}
	root, has, err := VerifyIndex(closing, z, p.Bucket, p.BucketPath)
	if err != nil {
		return EpochEntries{}, err
	}
	e := EpochEntries{Epoch: opener.Epoch, Opened: opener.Opened, Closed: closing.Opened, Label: z}
	if !has {
		if len(p.Leaves) != 0 {
			return EpochEntries{}, unproven("epoch: leaves of a roll that the index does not have")
		}
		return e, nil
	}
	reached, indexes, err := CheckRoll(p.Leaves)
	if err != nil {
		return EpochEntries{}, err
	}
	if reached != root {
		return EpochEntries{}, unproven("epoch: the leaves are not the roll in the index")
	}
	if indexes[0] <= closing.Closed.First || indexes[len(indexes)-1] >= closing.At() {
		return EpochEntries{}, unproven("epoch: the roll holds an entry of another epoch")
	}
	e.Indexes = indexes
	return e, nil
}
