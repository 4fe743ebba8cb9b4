package shm

import (
	"context"

	"go-shm-client/internal/doorbell"
)

// ModelInfo is what the server says of one of its models: the Signature, without labels; Protocol, "call" for what Client.Model
// calls and "stream" for what answers prompts; and State: "ready", "starting" while who wants it is refused, or "not answering"
// while it has had a batch for too long.
type ModelInfo = doorbell.ModelInfo

// Models asks the server which models it has now, without connecting to any: a server whose default model is starting, or that has
// none, answers too. The default of each protocol comes first. It does not wait for a server that is gone; its errors are ErrNotRun.
func (c *Client) Models(ctx context.Context) ([]ModelInfo, error) {
	if c.life.Err() != nil {
		return nil, notRun(errClosed)
	}
	ctx, release := c.alive(ctx)
	defer release()
	answer, err := follow(ctx, func() ([]byte, error) { return doorbell.Ask(ctx, c.path, c.config.trust, doorbell.QuestionModels) })
	if err != nil {
		return nil, notRun(err)
	}
	models, err := doorbell.DecodeModels(answer)
	return models, notRun(err)
}
