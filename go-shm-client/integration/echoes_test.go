//go:build !race

package integration

const echoes = 150_000 // six times over: nearly a million
