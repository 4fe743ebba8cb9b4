//go:build !race

package integration

const echoes = 350_000 // six times over: two million in all
