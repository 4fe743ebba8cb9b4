package integration

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	shm "go-shm-client"
)

// Hundreds of goroutines share a few slots. Each writes bytes that nobody else writes, has them echoed, and checks
// that the server read exactly them and that they are still there: nothing lost, doubled or overwritten.
func TestHundredsOfGoroutinesShareAFewSlotsWithEveryByteChecked(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for _, n := range []uint32{4, 8, 64} {
		for _, spin := range []time.Duration{shm.NoSpin, 100 * time.Microsecond} {
			t.Run(fmt.Sprintf("%d slots, spin %v", n, spin), func(t *testing.T) {
				s := start(t, "", "brightness")
				client := dial(t, s, shm.Options{Spin: spin, Models: slots(int(n)).Models})
				echoAll(t, client, seed, 200, echoes)
			})
		}
	}
}

func echoAll(t *testing.T, client *shm.Client, seed uint64, goroutines, total int) {
	ctx := t.Context() // a slow machine may take its time
	var made atomic.Int64
	var all sync.WaitGroup
	for g := range goroutines {
		all.Add(1)
		go func() {
			defer all.Done()
			random := rand.New(rand.NewPCG(seed, uint64(g)))
			for made.Add(1) <= int64(total) {
				slot, err := client.ReserveImage(ctx)
				if err != nil {
					t.Errorf("reserve: %v", err)
					return
				}
				pixels := slot.Pixels()
				mark := random.Uint64()
				for i := 0; i < len(pixels); i += 8 {
					binary.LittleEndian.PutUint64(pixels[i:], mark+uint64(i))
				}
				echo, err := slot.Echo(ctx)
				if err != nil || echo.Checksum != shm.Checksum(pixels) {
					t.Errorf("goroutine %d: %+v, %v", g, echo, err)
					return
				}
				for i := 0; i < len(pixels); i += 8 {
					if binary.LittleEndian.Uint64(pixels[i:]) != mark+uint64(i) {
						t.Errorf("goroutine %d: byte %d was overwritten", g, i)
						return
					}
				}
				slot.Release()
			}
		}()
	}
	all.Wait()
	if requests := client.Stats().Requests; !t.Failed() && requests != uint64(total) {
		t.Errorf("%d requests, want %d", requests, total)
	}
}
