package integration

import (
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	shm "go-shm-client"
)

// modelsCommand is serveModels' command, for another server at the same path.
func (s *server) again(t *testing.T, flags ...string) *server {
	t.Helper()
	command := exec.Command(s.command.Args[0], append(slices.Clone(s.command.Args[1:]), flags...)...)
	command.Env = s.command.Env
	return startCommand(t, s.path, command)
}

// reload has every model of the server loaded again, and waits until that has happened.
func (s *server) reload(t *testing.T) {
	t.Helper()
	command := exec.Command(s.command.Args[0], "-m", "shm_server.cli", "reload", "--socket", s.path)
	command.Env = s.command.Env
	if said, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
}

// callers call iris, each with numbers of its own, until they are stopped, and in each of the ways that there are. Every answer is
// checked.
type callers struct {
	stop  chan struct{}
	all   sync.WaitGroup
	calls atomic.Int64
}

func call(t *testing.T, n int, path string, client *shm.Client) *callers {
	c := &callers{stop: make(chan struct{})}
	for i := range n {
		c.all.Add(1)
		go func() {
			defer c.all.Done()
			iris, err := client.Model(soon(t), "iris")
			var held shm.Slot
			if err == nil && i%4 == 1 {
				held, err = iris.Reserve(soon(t))
				defer held.Release()
			}
			for k := float32(i); err == nil; k += float32(n) {
				select {
				case <-c.stop:
					return
				default:
				}
				switch i % 4 {
				case 1: // a slot for good, whichever process has the model
					err = runOne(t, held, k)
				case 2:
					err = runBatch(t, iris, k)
				case 3:
					err = callAnew(t, path, k)
				default:
					var y []float32
					y, err = shm.Call[float32](soon(t), iris, []float32{k, 0, 0, 1})
					check(t, k, y, err)
				}
				c.calls.Add(1)
			}
			t.Errorf("a call failed: %v", err)
		}()
	}
	return c
}

func check(t *testing.T, k float32, y []float32, err error) {
	if err == nil && !slices.Equal(y, []float32{k + 1, 2 * (k + 1), 3 * (k + 1)}) {
		t.Errorf("the answer to %v is %v", k, y)
	}
}

func runOne(t *testing.T, slot shm.Slot, k float32) error {
	x, err := shm.View[float32](slot, "x")
	if err != nil {
		return err
	}
	copy(x, []float32{k, 0, 0, 1})
	if err := slot.Run(soon(t)); err != nil {
		return err
	}
	y, err := shm.View[float32](slot, "y")
	check(t, k, y, err)
	return err
}

func runBatch(t *testing.T, model *shm.Model, k float32) error {
	batch, err := model.ReserveBatch(soon(t), 5)
	if err != nil {
		return err
	}
	defer batch.Release()
	x, err := shm.ViewBatch[float32](batch, "x")
	if err != nil {
		return err
	}
	for i := range x.Len() {
		copy(x.Row(i), []float32{k + float32(i), 0, 0, 1})
	}
	if err := batch.Run(soon(t)); err != nil {
		return err
	}
	y, err := shm.ViewBatch[float32](batch, "y")
	for i := range y.Len() {
		check(t, k+float32(i), y.Row(i), err)
	}
	return err
}

// callAnew makes a client for one call: its hello may meet the server that goes.
func callAnew(t *testing.T, path string, k float32) error {
	client, err := shm.NewClient(path)
	if err != nil {
		return err
	}
	defer client.Close()
	iris, err := client.Model(soon(t), "iris")
	if err != nil {
		return err
	}
	y, err := shm.Call[float32](soon(t), iris, []float32{k, 0, 0, 1})
	check(t, k, y, err)
	return err
}

// more waits until some calls more have been answered.
func (c *callers) more(t *testing.T) {
	t.Helper()
	before := c.calls.Load()
	eventually(t, "there are more answers", func() bool { return c.calls.Load() > before+100 || t.Failed() })
}

func (c *callers) end() {
	close(c.stop)
	c.all.Wait()
}

func TestNoCallFailsWhileAModelIsLoadedAgainOrAnotherServerTakesOver(t *testing.T) {
	for name, spin := range map[string]time.Duration{"that sleep": shm.NoSpin, "that spin": time.Hour} {
		t.Run("callers "+name, func(t *testing.T) {
			s, _ := serveModels(t, "stub_models:iris")
			c := call(t, 16, s.path, dial(t, s, shm.Options{Spin: spin}))
			for range 3 {
				c.more(t)
				s.reload(t)
			}
			for range 2 {
				c.more(t)
				next := s.again(t, "--takeover")
				select {
				case <-s.ended:
				case <-time.After(5 * time.Minute):
					t.Fatal("the server that was taken over from does not end")
				}
				if code := s.command.ProcessState.ExitCode(); code != 0 {
					t.Errorf("it ended with code %d", code)
				}
				s, next.command.Args = next, slices.Clone(s.command.Args)
			}
			c.more(t)
			c.end()
			if log := s.log.String(); strings.Contains(log, "WARNING") || strings.Contains(log, "ERROR") {
				t.Errorf("the last server said:\n%s", log)
			}
			s.signal(syscall.SIGTERM)
		})
	}
}
