package shm_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	shm "go-shm-client"
)

func Example() {
	ctx := context.Background()
	client, err := shm.Dial(ctx, shm.DefaultSocket())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	pixels, err := os.ReadFile("ship.rgb") // shm.PixelBytes bytes: all red, all green, all blue
	if err != nil {
		log.Fatal(err)
	}
	result, err := client.Classify(ctx, pixels)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, %.0f %%\n", result.Label, 100*result.Score)
}

// Pixels that are computed anyway are best written where the model reads them.
func ExampleClient_ReserveImage() {
	ctx := context.Background()
	client, err := shm.Dial(ctx, shm.DefaultSocket())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	slot, err := client.ReserveImage(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer slot.Release()
	for brightness := range 256 {
		for i := range slot.Pixels() {
			slot.Pixels()[i] = byte(brightness)
		}
		result, err := slot.Classify(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(brightness, result.Label)
	}
}

// A service that would rather turn work away than queue it, and that knows what to tell its callers.
func ExampleClient_TryClassify() {
	client, err := shm.Dial(context.Background(), "", shm.WithSpin(50*time.Microsecond))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	scores := make([]float32, 0, 10)
	result, err := client.TryClassify(ctx, make([]byte, shm.PixelBytes), shm.WithScores(scores))
	switch {
	case errors.Is(err, shm.ErrRingFull):
		fmt.Println("busy, come back later")
	case errors.Is(err, shm.ErrDeadlineExceeded):
		fmt.Println("too slow")
	case errors.Is(err, shm.ErrServerGone), errors.Is(err, shm.ErrDraining):
		fmt.Println("restarting: the client reconnects by itself")
	case err != nil:
		fmt.Println(err)
	default:
		fmt.Println(result.Label, result.Scores)
	}
}

// A reply that is shown as it is generated, and cut off after three lines.
func ExampleClient_Stream() {
	client, err := shm.Dial(context.Background(), "")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	lines := 0
	for piece, err := range client.Stream(ctx, "KING HENRY. Now, by my sword,", shm.SamplingSteps(200), shm.Seed(1)) {
		switch {
		case errors.Is(err, shm.ErrRateLimited):
			fmt.Println("the endpoint asks for patience")
		case err != nil:
			fmt.Println(err)
		}
		fmt.Print(piece)
		if lines += strings.Count(piece, "\n"); lines >= 3 {
			break // the server stops generating
		}
	}
}

func ExampleChecksum() {
	fmt.Printf("%#x\n", shm.Checksum([]byte{1, 0, 0, 0, 0, 0, 0, 0, 2}))
	// Output: 0x400000003
}
