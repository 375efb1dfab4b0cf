package ledger

// PrepareFrom sets the number of filed entries from which the close of an epoch is prepared before its end.
func (c *Config) PrepareFrom(n uint64) { c.prepareFrom = n }
