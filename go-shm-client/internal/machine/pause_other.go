//go:build !amd64 && !arm64

package machine

// Pause does nothing on a processor whose hint for spin loops we do not know.
func Pause() {}
