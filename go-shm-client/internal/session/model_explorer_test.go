package session

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"testing"
)

// maxStates keeps the test to half a minute.
const maxStates = 12_000_000

// step leads to a state.
type step struct {
	to   world
	hash uint64
}

// explorer remembers the states that it has seen by 64-bit hashes: two of eight million states share one with a
// probability of 1 in 500,000.
type explorer struct {
	rules
	seed  maphash.Seed
	seen  hashes
	from  map[uint64]uint64 // a state's hash, and the hash of the one that it was reached from; nil: nobody asks
	todo  []world
	wrong string
	at    world // where it went wrong
}

func (e *explorer) fail(w world, format string, args ...any) {
	if e.wrong == "" {
		e.wrong, e.at = fmt.Sprintf(format, args...), w
	}
}

func (e *explorer) touch(w *world, who string) {
	if w.unmapped {
		e.fail(*w, "%s touches memory that is unmapped", who)
	}
}

func (e *explorer) hash(w world) uint64 { return maphash.Comparable(e.seed, w) }

func (r rules) start() (w world) {
	w.threads[2].at = bellOff
	w.threads[3].at = serverNext
	w.free = [2]bool{true, true}
	w.left = r.calls
	return w
}

// explore tries everything, and returns what is wrong, with the way that leads there.
func explore(t *testing.T, r rules) (wrong string) {
	t.Helper()
	e := &explorer{rules: r, seed: maphash.MakeSeed()}
	e.run(t)
	t.Logf("%+v: %d states", r, e.seen.count)
	if e.wrong == "" {
		return ""
	}
	again := &explorer{rules: r, seed: e.seed, from: make(map[uint64]uint64)} // the same way, and remembers it
	again.run(t)
	return again.wrong + "\n" + again.way()
}

func (e *explorer) run(t *testing.T) {
	t.Helper()
	start := e.start()
	e.seen.add(e.hash(start))
	e.todo = append(e.todo, start)
	var found []step
	for len(e.todo) > 0 && e.wrong == "" {
		w := e.todo[len(e.todo)-1]
		e.todo = e.todo[:len(e.todo)-1]
		found = found[:0]
		e.next(w, func(next world) {
			found = append(found, step{next, e.hash(next)})
			if e.wrong != "" {
				e.at = next
			}
		})
		if len(found) == 0 {
			e.checkFinal(w)
		}
		e.seen.fetch(found)
		for i := range found {
			if e.seen.add(found[i].hash) {
				e.todo = append(e.todo, found[i].to)
				if e.from != nil {
					e.from[found[i].hash] = e.hash(w)
				}
			}
		}
		if e.seen.count > maxStates {
			t.Fatal("too many states: the model was made too large")
		}
	}
}

// next adds every state that one step leads to.
func (e *explorer) next(w world, add func(world)) {
	forget := func(next world) {
		for t := range next.threads {
			next.threads[t].forget()
		}
		add(next)
	}
	for t := range w.threads {
		e.step(w, t, forget)
	}
	e.stepCloser(w, forget)
}

// forget clears locals that are not read again, so that states which differ in nothing else are one.
func (th *thread) forget() {
	taking := th.at == takeLoad || th.at == takeSwap
	reaping := th.at >= reapTake && th.at <= reapFree
	leaving := th.at >= leaveStore && th.at <= leaveArmed
	if !taking {
		th.take, th.failed = 0, 0
	}
	if !leaving {
		th.head = 0
	}
	if !leaving && !(taking && th.take == leaveDisarm) && !(reaping && th.reapThen == leaveStore) {
		th.leaveThen = 0
	}
	if !reaping {
		th.reapThen = 0
	}
	if !reaping && th.at != serverMore {
		th.got = 0
	}
	if th.at != collect {
		th.collectThen = 0
	}
	if th.at >= callRelease && th.at <= callOver || th.at == callClaim {
		th.reaper, th.asleep, th.over = false, false, false
	}
}

func (e *explorer) checkFinal(w world) {
	for i := range 2 {
		switch {
		case w.threads[i].at != callOver:
			e.fail(w, "caller %d waits for ever", i)
		case w.token[i] != 0:
			e.fail(w, "a token is left over")
		case w.ended && (w.free[i] || !w.unmapped):
			e.fail(w, "slot %d was not collected, or the memory is still mapped", i)
		case !w.ended && (!w.free[i] || w.call[i] != idle):
			e.fail(w, "slot %d is lost", i)
		}
	}
	if w.waiters != 0 {
		e.fail(w, "%d waiters are left over", w.waiters)
	}
}

// way walks again to the fault, and returns its last steps.
func (e *explorer) way() string {
	var hashes []uint64
	for hash := e.hash(e.at); hash != 0; hash = e.from[hash] {
		hashes = append(hashes, hash)
	}
	var steps []string
	w := e.start()
	for _, hash := range slices.Backward(hashes[:len(hashes)-1]) {
		before := w
		e.next(before, func(next world) {
			if e.hash(next) == hash {
				w = next
			}
		})
		for t := range w.threads {
			if w.threads[t] != before.threads[t] {
				steps = append(steps, fmt.Sprintf("thread %d: %-13v then calls %v tokens %v ring %d waiters %d role %v parked %v bell %v",
					t, before.threads[t].at, w.call, w.token, w.ringed, w.waiters, w.role, w.parked, w.bell))
			}
		}
	}
	return strings.Join(steps[max(0, len(steps)-40):], "\n")
}

// hashes is a set. To look up is nearly all that an explorer does, and is to wait for memory: a map would do so twice.
type hashes struct {
	table   []uint64 // a power of two, at most half full; 0: empty
	count   int
	fetched uint64
}

// fetch waits for the memory of all of these at the same time, and not of one after the other.
func (h *hashes) fetch(steps []step) {
	mask := uint64(len(h.table) - 1)
	for i := range steps {
		h.fetched += h.table[steps[i].hash&mask]
	}
}

// add tells whether hash is new.
func (h *hashes) add(hash uint64) bool {
	if 2*h.count >= len(h.table) {
		h.grow()
	}
	if !h.put(max(hash, 1)) {
		return false
	}
	h.count++
	return true
}

func (h *hashes) put(hash uint64) bool {
	mask := uint64(len(h.table) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		switch h.table[i] {
		case hash:
			return false
		case 0:
			h.table[i] = hash
			return true
		}
	}
}

func (h *hashes) grow() {
	old := h.table
	h.table = make([]uint64, max(1024, 2*len(old)))
	for _, hash := range old {
		if hash != 0 {
			h.put(hash)
		}
	}
}
