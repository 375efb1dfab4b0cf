package bench

import (
	"math"
	"math/bits"
	"time"
)

// histogram counts durations in steps of 1/32 of their size: 32 of a microsecond first, then 16 for each doubling.
type histogram struct {
	Counts []int64
	N      int64
	Sum    time.Duration
	Max    time.Duration
}

const (
	fine    = 32
	buckets = fine + 16*40
)

func bucketOf(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	if us < fine {
		return int(us)
	}
	shift := bits.Len64(us) - 5 // us>>shift is in [16, 32)
	return min(fine+16*(shift-1)+int(us>>shift)-16, buckets-1)
}

// floorOf is the least duration that falls into a bucket.
func floorOf(i int) time.Duration {
	if i < fine {
		return time.Duration(i) * time.Microsecond
	}
	shift := (i-fine)/16 + 1
	return time.Duration(uint64((i-fine)%16+16)<<shift) * time.Microsecond
}

func (h *histogram) add(d time.Duration) {
	if h.Counts == nil {
		h.Counts = make([]int64, buckets)
	}
	h.Counts[bucketOf(d)]++
	h.N++
	h.Sum += d
	h.Max = max(h.Max, d)
}

func (h *histogram) merge(o *histogram) {
	if o.N == 0 {
		return
	}
	if h.Counts == nil {
		h.Counts = make([]int64, buckets)
	}
	for i, n := range o.Counts {
		h.Counts[i] += n
	}
	h.N += o.N
	h.Sum += o.Sum
	h.Max = max(h.Max, o.Max)
}

// quantile returns the middle of the bucket that holds the q-th part, 0 if nothing was counted.
func (h *histogram) quantile(q float64) time.Duration {
	if h.N == 0 {
		return 0
	}
	rank := int64(math.Ceil(q * float64(h.N)))
	var seen int64
	for i, n := range h.Counts {
		if seen += n; seen >= max(rank, 1) {
			return min((floorOf(i)+floorOf(i+1))/2, h.Max)
		}
	}
	return h.Max
}
