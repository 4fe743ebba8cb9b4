//go:build race

package integration

const echoes = 20_000 // the race detector slows them down tenfold, and looks at the client only
