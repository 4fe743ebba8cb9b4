package session

import (
	"strings"
	"testing"
)

// The protocol of call.go, reap.go, reader.go, wait.go and end.go as a small machine, of which every interleaving is tried: two
// callers with a slot each, the background reader, the server, and whoever closes the client. A step is one
// access to shared memory. Memory is sequentially consistent, as sync/atomic is; that the server's fences give it the
// same is shown by tests/conformance/test_wakeup_model.py.
//
// Checked in every state: a token is never sent to a channel that holds one, a slot is never released twice, only
// calls in flight are completed, and nobody touches the mapping once it is gone. Checked where nobody can move any
// more: every caller has returned, every slot is free (or collected, and the memory unmapped), no token and no waiter
// is left over. A lost wake-up is a state where a caller cannot move and has not returned.

func TestNoInterleavingLosesAWakeUpATokenASlotOrTheMapping(t *testing.T) {
	if underRace {
		t.Skip("one goroutine, a million states: the race detector finds nothing and takes long")
	}
	// Larger ones were tried once: two calls and one without limits, and all of it with two callers; a prompt and a call
	// with spinners that give up at any time.
	for name, r := range map[string]rules{
		"one calls again, spinning for ever": {calls: [2]uint8{2, 1}, forever: true},
		"contexts end, one calls again":      {calls: [2]uint8{2, 0}, cancel: true},
		"contexts end and the server dies":   {calls: [2]uint8{1, 1}, cancel: true, die: true},
		"and the client is closed, too":      {calls: [2]uint8{1, 0}, cancel: true, die: true, close: true},
		"a prompt of three texts":            {calls: [2]uint8{1, 0}, texts: [2]uint8{3}, forever: true},
		"a prompt and a call":                {calls: [2]uint8{1, 1}, texts: [2]uint8{1, 0}, forever: true},
		"a prompt that may be given up":      {calls: [2]uint8{1, 0}, texts: [2]uint8{2}, cancel: true},
		"a prompt, and the server dies":      {calls: [2]uint8{1, 0}, texts: [2]uint8{1}, cancel: true, die: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if wrong := explore(t, r); wrong != "" {
				t.Error(wrong)
			}
		})
	}
}

func TestTheCheckerFindsWhatEachPartOfTheProtocolIsFor(t *testing.T) {
	if underRace {
		t.Skip("one goroutine, as above")
	}
	one := [2]uint8{1, 1}
	for name, c := range map[string]struct {
		rules
		want string
	}{
		"waiters not looked at":       {rules{calls: one, noCount: true}, "waits for ever"},
		"ring not looked at":          {rules{calls: one, noLastLook: true}, "waits for ever"},
		"armed before leaving":        {rules{calls: one, armFirst: true}, "waits for ever"},
		"counted after the try":       {rules{calls: one, countLate: true}, "waits for ever"},
		"abandoned before leaving":    {rules{calls: one, cancel: true, die: true, abandonEarly: true}, "unmapped"},
		"abandoned calls not counted": {rules{calls: one, cancel: true, uncounted: true}, "lost"},
		"published after the end":     {rules{calls: one, die: true, noSeal: true}, ""},
		"no second look for a more":   {rules{calls: one, texts: [2]uint8{1, 1}, noRecheck: true}, "waits for ever"},
		"a spinner does not look":     {rules{calls: one, texts: [2]uint8{2, 2}, forever: true, noFirstLook: true}, "waits for ever"},
		"read before acknowledged":    {rules{calls: one, texts: [2]uint8{2, 2}, readFirst: true}, "waits for ever"},
		"a more counted late":         {rules{calls: one, texts: [2]uint8{1, 1}, moreLate: true}, "waits for ever"},
		"left awake, then counted":    {rules{calls: one, texts: [2]uint8{1, 1}, cancel: true, abandonAwake: true}, "lost"},
		"a reader not interrupted":    {rules{calls: one, noInterrupt: true}, "waits for ever"},
		"a reader does not look":      {rules{calls: one, noLook: true}, "waits for ever"},
		"left reading, no look":       {rules{calls: one, noReaderCount: true}, "waits for ever"},
		"given up to nobody":          {rules{calls: [2]uint8{1, 0}, texts: [2]uint8{1}, cancel: true, noCall: true}, "lost"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if wrong := explore(t, c.rules); wrong == "" || !strings.Contains(wrong, c.want) {
				t.Errorf("not found, but: %s", wrong)
			}
		})
	}
}
