package fault

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxLine bounds what a peer adds to an error's text, in bytes.
const maxLine = 1024

// Line makes what a peer says fit for a log and a terminal: one line of printable characters, not too long.
func Line(said string) string {
	cut := len(said) > maxLine
	said = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, said[:min(len(said), maxLine)])
	if cut {
		said = strings.TrimRight(said, string(utf8.RuneError)) + "..." // the cut may have gone through a character
	}
	return strings.TrimSpace(said)
}
