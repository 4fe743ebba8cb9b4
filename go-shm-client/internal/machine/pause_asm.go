//go:build amd64 || arm64

package machine

// Pause tells the processor that this is a spin loop: it saves power, leaves the core to a sibling thread, and does
// not mispredict the loop's end.
//
//go:noescape
func Pause()
