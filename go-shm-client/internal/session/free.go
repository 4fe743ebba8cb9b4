package session

import (
	"container/list"
	"math/bits"
	"sync"
)

// freeSlots are the slots that nobody owns. Calls in a row get slots in a row, which the server can run as one array without
// gathering them: the search for one goes on where the last one ended.
//
// Who wants several neighbours at a time would starve beside those who want one, and take one after the other while it waits.
// So the first of them reserves a window, the one where most is free: what is free in it, or comes back to it, is its, and everything
// else is everybody's. The others wait in line for the window.
type freeSlots struct {
	mu      sync.Mutex
	slots   int
	words   []uint64   // a bit for each slot: 1 is free
	next    int        // where the search begins
	singles *list.List // of *claimant: who waits for one slot
	several *list.List // of *claimant: who waits for more; the first has the window
	at      int        // the window's first slot
	come    []uint32   // the window's slots that have come
	over    bool       // whoever puts a slot back puts it back for good
	gone    int        // how many are
}

// claimant waits for n neighbouring slots.
type claimant struct {
	n     int
	first chan uint32 // has room: whoever delivers does not wait
	line  *list.List  // where it stands, nil: no more
	place *list.Element
}

func newFreeSlots(slots int) *freeSlots {
	f := &freeSlots{slots: slots, words: make([]uint64, (slots+63)/64), singles: list.New(), several: list.New()}
	for slot := range slots {
		f.words[slot/64] |= 1 << (slot % 64)
	}
	return f
}

// take takes n neighbours, if there are any.
func (f *freeSlots) take(n int) (first uint32, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.find(n)
}

// queue is take, or else a place in line.
func (f *freeSlots) queue(n int) (first uint32, c *claimant) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if first, ok := f.find(n); ok {
		return first, nil
	}
	c = &claimant{n: n, first: make(chan uint32, 1), line: f.singles}
	if n > 1 {
		c.line = f.several
	}
	if c.place = c.line.PushBack(c); n > 1 && c.line.Len() == 1 {
		f.open()
	}
	return 0, c
}

// leave takes somebody out of the line: it waits no more. Slots that it was given meanwhile are its to put back.
func (f *freeSlots) leave(c *claimant) (first uint32, given bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.line == nil {
		return <-c.first, true
	}
	windowed := f.several.Front() == c.place
	if c.line.Remove(c.place); windowed {
		for _, slot := range f.come {
			f.spread(slot)
		}
		f.open()
	}
	return 0, false
}

// put puts a slot back. last: the lane is over, and this was the last slot of it.
func (f *freeSlots) put(slot uint32) (last bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		f.gone++
		return f.gone == f.slots
	}
	f.give(slot)
	return false
}

// end takes the free slots for good, and what is put back from now on. last: those were all.
func (f *freeSlots) end() (last bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	f.gone = len(f.come)
	f.come = nil
	for i, word := range f.words {
		f.gone += bits.OnesCount64(word)
		f.words[i] = 0
	}
	return f.gone == f.slots
}

// free is how many slots nobody owns.
func (f *freeSlots) free() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, word := range f.words {
		n += bits.OnesCount64(word)
	}
	return n
}

// Below, the caller holds mu.

// give gives a slot to whom the window is, or to everybody.
func (f *freeSlots) give(slot uint32) {
	first := f.several.Front()
	if first == nil {
		f.spread(slot)
		return
	}
	c := first.Value.(*claimant)
	if int(slot) < f.at || int(slot) >= f.at+c.n {
		if f.spread(slot) { // there may be a better window now: this one may have a slot that somebody keeps
			for _, slot := range f.come {
				f.spread(slot)
			}
			f.open()
		}
	} else if f.come = append(f.come, slot); len(f.come) == c.n {
		c.deliver(uint32(f.at))
		f.open()
	}
}

// spread gives a slot to the first who waits for one, or to nobody: then it is free.
func (f *freeSlots) spread(slot uint32) (free bool) {
	if first := f.singles.Front(); first != nil {
		first.Value.(*claimant).deliver(slot)
		return false
	}
	f.words[slot/64] |= 1 << (slot % 64)
	return true
}

func (c *claimant) deliver(first uint32) {
	c.line.Remove(c.place)
	c.line = nil
	c.first <- first
}

// find takes n neighbours that are free.
func (f *freeSlots) find(n int) (first uint32, ok bool) {
	at := -1
	if n == 1 {
		if at = f.from(f.next); at < 0 {
			at = f.from(0)
		}
	} else {
		at = f.run(n)
	}
	if at < 0 {
		return 0, false
	}
	for slot := at; slot < at+n; slot++ {
		f.words[slot/64] &^= 1 << (slot % 64)
	}
	f.next = at + n
	return uint32(at), true
}

// from is the first free slot from one on, -1: there is none.
func (f *freeSlots) from(slot int) int {
	if slot >= f.slots {
		return -1
	}
	word := f.words[slot/64] & (^uint64(0) << (slot % 64))
	for at := slot / 64; ; word = f.words[at] {
		if word != 0 {
			return at*64 + bits.TrailingZeros64(word)
		}
		if at++; at == len(f.words) {
			return -1
		}
	}
}

// run is where n neighbours are free, -1: nowhere.
func (f *freeSlots) run(n int) int {
	for at := f.from(0); at >= 0 && at+n <= f.slots; {
		end := at + 1
		for end < at+n && f.isFree(end) {
			end++
		}
		if end == at+n {
			return at
		}
		at = f.from(end)
	}
	return -1
}

func (f *freeSlots) isFree(slot int) bool { return f.words[slot/64]&(1<<(slot%64)) != 0 }

// open opens the window for the first in line who does not find what it needs, where most of its slots are free, and takes those.
func (f *freeSlots) open() {
	f.come = f.come[:0]
	for {
		front := f.several.Front()
		if front == nil {
			return
		}
		c := front.Value.(*claimant)
		first, found := f.find(c.n)
		if !found {
			f.at = f.emptiest(c.n)
			for slot := f.at; slot < f.at+c.n; slot++ {
				if f.isFree(slot) {
					f.words[slot/64] &^= 1 << (slot % 64)
					f.come = append(f.come, uint32(slot))
				}
			}
			return
		}
		c.deliver(first)
	}
}

// emptiest is the first of n neighbours of which most are free.
func (f *freeSlots) emptiest(n int) (at int) {
	for slot, free, most := 0, 0, -1; slot < f.slots; slot++ {
		if f.isFree(slot) {
			free++
		}
		if slot >= n && f.isFree(slot-n) {
			free--
		}
		if slot >= n-1 && free > most {
			most, at = free, slot-n+1
		}
	}
	return at
}
