// Package shm calls a model that lives in a Python process on the same machine, through memory that both map. A
// request is a few stores, an answer is a few loads; a socket is touched only to wake a side that sleeps.
//
//	client, err := shm.NewClient(shm.DefaultSocket())
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	result, err := client.Classify(ctx, pixels)     // 3 x 32 x 32 bytes, planar RGB
//	fmt.Println(result.Label, result.Score)
//
// Package go-shm-client/pictures, a module of its own, makes pixels of picture files. Those that are computed anyway can be
// written where the model reads them:
//
//	slot, err := client.ReserveImage(ctx)
//	defer slot.Release()
//	fill(slot.Pixels())
//	result, err := slot.Classify(ctx)
//
// Those are calls of the server's default model. Any other one is called by its name, with whatever tensors it takes:
//
//	iris, err := client.Model(ctx, "iris")
//	y, err := shm.Call[float32](ctx, iris, []float32{5.1, 3.5, 1.4, 0.2})
//
// or, where there are several tensors or nothing is to be copied, in a Slot: Model.Reserve, View, Slot.Run. Several rows at once are
// a Batch, each tensor of which is one array: Model.ReserveBatch, ViewBatch, Batch.Run. Client.Models says which models there are.
//
// A Client may be made before its server is up. It connects to a model when that is first used, and reconnects by itself; while nobody
// serves, calls fail at once with ErrServerGone, and WaitReady waits.
//
// A Client is safe for concurrent use, and meant to be shared: its slots are. When all of them are taken, calls wait
// for one until their context ends; the Try variants return ErrRingFull. A call whose context ends while the server
// works on it returns at once, and its slot is used again when the server is done with it. When the server goes away,
// the calls in flight fail with ErrServerGone, and none is retried. An error that is
// ErrNotRun says that the call can be made again without being run twice. A model that is replaced by the next version of it
// fails no call: those that it did not take wait for the next version.
//
// Shared memory needs Linux and a little-endian processor, of 32 or 64 bits; elsewhere NewClient fails with errors.ErrUnsupported, and
// packages uds and httpjson do.
package shm
