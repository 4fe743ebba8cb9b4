package integration

import (
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	shm "go-shm-client"
)

// Prompts that have text are ended by the process that began them, all others are put to the next one.
func TestNoPromptFailsWhileItsModelIsLoadedAgainOrAnotherServerTakesOver(t *testing.T) {
	s, client := serveModels(t, "stub_models:iris", "--generator", "stub_generators:computing")
	var answered atomic.Int64
	stop := make(chan struct{})
	var all sync.WaitGroup
	for g := range 8 {
		all.Add(1)
		go func() {
			defer all.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				text := ""
				for piece, err := range client.Stream(soon(t), "repeat:word", shm.PromptOptions{SamplingSteps: 1 + 20*g}) {
					if err != nil {
						t.Errorf("after %q: %v", text, err)
						return
					}
					text += piece.Text
				}
				if len(text) != 4*(1+20*g) {
					t.Errorf("%d bytes of %d", len(text), 4*(1+20*g))
				}
				answered.Add(1)
			}
		}()
	}
	more := func() {
		t.Helper()
		before := answered.Load()
		eventually(t, "there are more replies", func() bool { return answered.Load() > before+50 || t.Failed() })
	}
	for range 3 {
		more()
		s.reload(t)
	}
	more()
	next := s.again(t, "--takeover")
	<-s.ended
	more()
	close(stop)
	all.Wait()
	next.signal(syscall.SIGTERM)
}
