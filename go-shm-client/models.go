package shm

import (
	"context"

	"go-shm-client/internal/doorbell"
)

// ModelInfo is what the server says of one of its models: the Signature, without labels; Protocol, "call" for what Client.Model
// calls and "stream" for what answers prompts; and State: "ready", "starting" while who wants it is refused, or "not answering"
// while it has had a batch for too long.
type ModelInfo = doorbell.ModelInfo

// Models asks the server that listens at path, "" for DefaultSocket(), which models it has, without connecting to any: a server
// whose default model is starting, or that has none, answers too. The default of each protocol comes first. Of the options, those
// count that say whom to trust and whether to wait. Its errors are Dial's.
func Models(ctx context.Context, path string, opts ...Option) ([]ModelInfo, error) {
	if path == "" {
		path = DefaultSocket()
	}
	options, err := collect(opts)
	if err != nil {
		return nil, err
	}
	ask := func(ctx context.Context) ([]ModelInfo, error) { return options.askModels(ctx, path) }
	return reach(ctx, ask, options.wait, options.logger.With("path", path))
}

// Models asks the client's server which models it has now. It does not wait for a server that is gone; its errors are ErrNotRun.
func (c *Client) Models(ctx context.Context) ([]ModelInfo, error) {
	if c.life.Err() != nil {
		return nil, notRun(errClosed)
	}
	ctx, release := c.alive(ctx)
	defer release()
	models, err := c.options.askModels(ctx, c.path)
	return models, notRun(err)
}

func (o *options) askModels(ctx context.Context, path string) ([]ModelInfo, error) {
	answer, err := doorbell.Ask(ctx, path, o.trust, doorbell.QuestionModels)
	if err != nil {
		return nil, err
	}
	return doorbell.DecodeModels(answer)
}
