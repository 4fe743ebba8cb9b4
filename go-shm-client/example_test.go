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
	client, err := shm.NewClient(shm.DefaultSocket())
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
	client, err := shm.NewClient(shm.DefaultSocket())
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

// A model of any kind, its tensors written and read where they are.
func ExampleClient_Model() {
	ctx := context.Background()
	client, err := shm.NewClient("", shm.Options{
		Models: map[string]shm.ModelOptions{"embedder": {Extent: 512}}, // most tokens of a text
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	model, err := client.Model(ctx, "embedder")
	if err != nil {
		log.Fatal(err) // shm.ErrNoSuchModel: the text says which there are
	}
	slot, err := model.Reserve(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer slot.Release()

	text := []int32{101, 7592, 102}
	if err := slot.SetExtent(len(text)); err != nil {
		log.Fatal(err)
	}
	ids, err := shm.View[int32](slot, "ids") // as long as the text
	if err != nil {
		log.Fatal(err) // shm.ErrTensor: another type, or no tensor of that name
	}
	copy(ids, text)
	if err := slot.Run(ctx); err != nil {
		log.Fatal(err)
	}
	vector, err := shm.View[float32](slot, "vector") // until Release, or the next Run
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(vector, slot.Timing().ModelTime)
}

// Many rows at once, written where the model reads them as one array.
func ExampleModel_ReserveBatch() {
	ctx := context.Background()
	client, err := shm.NewClient("", shm.Options{Models: map[string]shm.ModelOptions{"iris": {Slots: 128}}})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	iris, err := client.Model(ctx, "iris")
	if err != nil {
		log.Fatal(err)
	}
	batch, err := iris.ReserveBatch(ctx, 32)
	if err != nil {
		log.Fatal(err)
	}
	defer batch.Release()
	x, err := shm.ViewBatch[float32](batch, "x")
	if err != nil {
		log.Fatal(err)
	}
	for i := range x.Len() {
		copy(x.Row(i), []float32{5.1, 3.5, 1.4, 0.2})
	}
	if err := batch.Run(ctx); err != nil {
		log.Fatal(err)
	}
	y, err := shm.ViewBatch[float32](batch, "y") // until Release, or the next Run
	if err != nil {
		log.Fatal(err)
	}
	for i := range y.Len() {
		fmt.Println(y.Row(i))
	}
}

// A model of one tensor in and one out, both copied.
func ExampleCall() {
	ctx := context.Background()
	client, err := shm.NewClient("")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	iris, err := client.Model(ctx, "iris")
	if err != nil {
		log.Fatal(err)
	}
	y, err := shm.Call[float32](ctx, iris, []float32{5.1, 3.5, 1.4, 0.2})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(y, iris.Outputs()[0].Labels)
}

// A service that would rather turn work away than queue it, and that knows what to tell its callers.
func ExampleClient_TryClassify() {
	client, err := shm.NewClient("", shm.Options{Spin: 50 * time.Microsecond})
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
	client, err := shm.NewClient("")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	seed, lines := uint64(1), 0
	for piece, err := range client.Stream(ctx, "KING HENRY. Now, by my sword,", shm.PromptOptions{SamplingSteps: 200, Seed: &seed}) {
		switch {
		case errors.Is(err, shm.ErrRateLimited):
			fmt.Println("the endpoint asks for patience")
		case err != nil:
			fmt.Println(err)
		case piece.Reply != nil:
			fmt.Println("\nin", piece.Reply.ModelTime)
		}
		fmt.Print(piece)
		if lines += strings.Count(piece.Text, "\n"); lines >= 3 {
			break // the server stops generating
		}
	}
}

// A service that starts together with its sidecar, whichever is first.
func ExampleClient_WaitReady() {
	client, err := shm.NewClient("")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := client.WaitReady(ctx, "iris", "embedder"); err != nil {
		log.Fatal(err) // which says whether the server is missing, or which model is still starting
	}
	iris, err := client.Model(ctx, "iris")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(iris.Signature())
}

func ExampleChecksum() {
	fmt.Printf("%#x\n", shm.Checksum([]byte{1, 0, 0, 0, 0, 0, 0, 0, 2}))
	// Output: 0x400000003
}
