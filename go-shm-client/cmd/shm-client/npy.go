package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go-shm-client/internal/layout"
)

// npyHeader is the dictionary that numpy.save writes; its specification fixes the order of the keys.
var npyHeader = regexp.MustCompile(`^\{'descr': '([^']*)', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), \} *\n$`)

// readNPY reads an array that numpy.save has written: little-endian elements, one row after the other. descr and shape are what it has to
// have; -1 in the shape is any number.
func readNPY(r io.Reader, descr string, shape []int) ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil || string(head[:6]) != "\x93NUMPY" {
		return nil, errors.New("not a .npy file")
	}
	length := make([]byte, 2)
	if head[6] > 1 {
		length = make([]byte, 4)
	}
	if _, err := io.ReadFull(r, length); err != nil || head[6] < 1 || head[6] > 3 {
		return nil, fmt.Errorf(".npy of version %d.%d, expected 1.0 to 3.0", head[6], head[7])
	}
	size := uint32(binary.LittleEndian.Uint16(length))
	if len(length) == 4 {
		size = binary.LittleEndian.Uint32(length)
	}
	if size > 1<<16 {
		return nil, fmt.Errorf("a header of %d bytes, expected %d at most", size, 1<<16)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, fmt.Errorf("its header: %w", err)
	}
	header := npyHeader.FindStringSubmatch(string(text))
	if header == nil {
		return nil, fmt.Errorf("a header that is not understood: %.100q", text)
	}
	if header[1] != descr || header[2] != "False" {
		return nil, fmt.Errorf("elements of type %s (Fortran's order: %s), expected %s in C's order", header[1], header[2], descr)
	}
	found, bytes, err := npyShape(header[3])
	if err != nil {
		return nil, err
	}
	if !slices.EqualFunc(found, shape, func(is, want int) bool { return is == want || want == -1 }) {
		return nil, fmt.Errorf("shape %v, expected %v", found, shape)
	}
	each, err := strconv.Atoi(descr[2:])
	if err != nil {
		return nil, err
	}
	bytes *= int64(each)
	if bytes > layout.MaxSegmentBytes {
		return nil, fmt.Errorf("shape %v: more than the %d bytes of a segment", found, layout.MaxSegmentBytes)
	}
	data, err := io.ReadAll(io.LimitReader(r, bytes+1))
	if err == nil && int64(len(data)) != bytes {
		err = fmt.Errorf("%d bytes of elements or more, shape %v has %d", len(data), found, bytes)
	}
	return data, err
}

// npyShape reads a tuple, and says how many elements it makes, up to more than a segment has bytes.
func npyShape(tuple string) (shape []int, elements int64, err error) {
	elements = 1
	for _, word := range strings.Split(strings.TrimSuffix(tuple, ","), ",") {
		if word = strings.TrimSpace(word); word == "" {
			continue // a scalar's
		}
		dim, err := strconv.ParseInt(word, 10, 32)
		if err != nil {
			return nil, 0, fmt.Errorf("shape (%s): %w", tuple, err)
		}
		shape = append(shape, int(dim))
		elements = min(elements*dim, layout.MaxSegmentBytes+1)
	}
	return shape, elements, nil
}
