package store

// slots says where intents lie on SQLite. An intent is as large as a record but needed only for as long as its request lasts: inserting and deleting it would write its pages twice.
// So the table of intents is a row of slots that are overwritten; the intent of a disclosure that is done stays until another one takes its place. Only the writer uses
// it. What a transaction took or gave counts once it is committed.
type slots struct {
	next Seq                // of disclosures
	size int64              // slots are numbered from 0 to size-1
	free []int64            // the last one that became free is the next: as few pages change as can be
	open map[Seq]int64      // slots of open intents
	far  map[int64]struct{} // those of them that lie beyond, because their number is damaged
	// Of the transaction that is under way.
	taken, given []Seq
}

// maxSlots is more than requests are ever under way at once: a greater number in the table is damage, and so is a negative one. Such a row is left where it is, until its disclosure is done.
const maxSlots = 1 << 20

// load finds out which slots hold open intents.
func (s *slots) load(c *conn) error {
	*s = slots{open: map[Seq]int64{}, far: map[int64]struct{}{}}
	var next int64
	if err := c.row("SELECT coalesce(max(seq), 0) + 1, (SELECT coalesce(max(slot) + 1, 0) FROM intents WHERE slot BETWEEN 0 AND ?) FROM disclosures", maxSlots-1).Scan(&next, &s.size); err != nil {
		return err
	}
	s.next = Seq(next)
	used := map[int64]bool{}
	err := c.rows("SELECT i.slot, d.seq FROM intents i CROSS JOIN disclosures d ON d.seq = i.disclosure WHERE d.state = 0", func(r row) error {
		var slot, seq int64
		if err := r.Scan(&slot, &seq); err != nil {
			return err
		}
		used[slot], s.open[Seq(seq)] = true, slot
		if slot >= s.size {
			s.far[slot] = struct{}{}
		}
		return nil
	})
	for slot := s.size - 1; slot >= 0; slot-- {
		if !used[slot] {
			s.free = append(s.free, slot)
		}
	}
	return err
}

// take gives a new disclosure its number and the slot of its intent.
func (s *slots) take() (Seq, int64) {
	seq, slot := s.next, s.size
	s.next++
	if n := len(s.free); n > 0 {
		slot, s.free = s.free[n-1], s.free[:n-1]
	} else {
		for ; ; slot++ {
			if _, taken := s.far[slot]; !taken {
				break
			}
		}
		s.size = slot + 1
	}
	s.open[seq] = slot
	s.taken = append(s.taken, seq)
	return seq, slot
}

// give says that a disclosure is done.
func (s *slots) give(d Seq) { s.given = append(s.given, d) }

func (s *slots) committed()  { s.release(s.given) }
func (s *slots) rolledBack() { s.release(s.taken) }

func (s *slots) release(done []Seq) {
	for _, d := range done {
		if slot, ok := s.open[d]; ok {
			delete(s.open, d)
			if slot >= 0 && slot < s.size {
				s.free = append(s.free, slot)
			}
		}
	}
	s.taken, s.given = s.taken[:0], s.given[:0]
}
