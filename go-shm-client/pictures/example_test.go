package pictures_test

import (
	"context"
	"fmt"
	"log"
	"os"

	shm "go-shm-client"
	"go-shm-client/pictures"
)

func Example() {
	ctx := context.Background()
	client, err := shm.NewClient(shm.DefaultSocket())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	file, err := os.Open("ship.png")
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	result, err := pictures.Classify(ctx, client, file)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, %.0f %%\n", result.Label, 100*result.Score)
}
