package payload

import (
	"encoding/json"
	"fmt"
	"os"
)

// Prompt is one prompt, and what its reply must be.
type Prompt struct {
	Text  string `json:"text"`
	Steps int    `json:"steps"`
	Seed  uint64 `json:"seed"`
	// Reply is the text that the same generator writes in process; "" where each piece is the moment at which it was made.
	Reply  string `json:"reply"`
	Pieces int    `json:"pieces"` // of the reply, in process
}

// Prompts reads a JSON array of prompts.
func Prompts(file string) ([]Prompt, error) {
	encoded, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read prompts: %w", err)
	}
	var prompts []Prompt
	if err := json.Unmarshal(encoded, &prompts); err != nil {
		return nil, fmt.Errorf("read prompts: %s: %w", file, err)
	}
	for i, prompt := range prompts {
		if prompt.Pieces < 2 || prompt.Steps < prompt.Pieces {
			return nil, fmt.Errorf("read prompts: prompt %d has %d pieces of %d steps", i, prompt.Pieces, prompt.Steps)
		}
	}
	if len(prompts) == 0 {
		return nil, fmt.Errorf("read prompts: %s has none", file)
	}
	return prompts, nil
}
