package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	shm "go-shm-client"
)

// values are what was given for an input: words, or the elements of a file as they lie in it.
type values struct {
	words []string
	data  []byte
	count int
}

func readValues(text string, input shm.Tensor) (values, error) {
	name, isFile := strings.CutPrefix(text, "@")
	if !isFile {
		words := strings.Split(text, ",")
		return values{words: words, count: len(words)}, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return values{}, err
	}
	defer file.Close()
	e := elements[input.Datatype]
	data, err := readNPY(file, e.descr, input.Shape)
	if err != nil {
		return values{}, fmt.Errorf("%s: %w", printable(name), err)
	}
	return values{data: data, count: len(data) / e.bytes}, nil
}

// extent is how large the symbolic dimension of an input is with these values, where it has one.
func (v values) extent(input shm.Tensor) (n int, symbolic bool, err error) {
	part := 1
	for _, dim := range input.Shape {
		if dim == -1 {
			symbolic = true
		} else {
			part *= dim
		}
	}
	switch {
	case symbolic && v.count%part != 0:
		return 0, false, fmt.Errorf("%v: %d values, expected a multiple of %d", input, v.count, part)
	case !symbolic && v.count != part:
		return 0, false, fmt.Errorf("%v: %d values, expected %d", input, v.count, part)
	}
	return v.count / part, symbolic, nil
}

// An element is how one of a datatype is written and read.
type element struct {
	descr string // NumPy's
	bytes int
	write func(slot shm.Slot, input string, v values) error
	read  func(slot shm.Slot, output string) ([]string, error)
}

var elements = map[string]element{
	"BOOL":   elementOf("|b1", strconv.ParseBool, strconv.FormatBool),
	"UINT8":  elementOf("|u1", unsigned[uint8], integer[uint8]),
	"UINT16": elementOf("<u2", unsigned[uint16], integer[uint16]),
	"UINT32": elementOf("<u4", unsigned[uint32], integer[uint32]),
	"UINT64": elementOf("<u8", unsigned[uint64], integer[uint64]),
	"INT8":   elementOf("|i1", signed[int8], integer[int8]),
	"INT16":  elementOf("<i2", signed[int16], integer[int16]),
	"INT32":  elementOf("<i4", signed[int32], integer[int32]),
	"INT64":  elementOf("<i8", signed[int64], integer[int64]),
	"FP16":   elementOf("<f2", fileOnly, func(bits uint16) string { return floating(half(bits), 32) }),
	"BF16": elementOf("<u2", fileOnly, func(bits uint16) string { // NumPy has no type for it
		return floating(float64(math.Float32frombits(uint32(bits)<<16)), 32)
	}),
	"FP32": elementOf("<f4", func(word string) (float32, error) {
		value, err := strconv.ParseFloat(word, 32)
		return float32(value), err
	}, func(value float32) string { return floating(float64(value), 32) }),
	"FP64": elementOf("<f8", func(word string) (float64, error) { return strconv.ParseFloat(word, 64) },
		func(value float64) string { return floating(value, 64) }),
}

func elementOf[T shm.Element](descr string, parse func(string) (T, error), say func(T) string) element {
	var zero T
	return element{
		descr: descr,
		bytes: binary.Size(zero),
		write: func(slot shm.Slot, input string, v values) error {
			view, err := shm.View[T](slot, input)
			if err != nil {
				return err
			}
			parsed := make([]T, v.count) // as many as the view has: extent has seen to it
			for i, word := range v.words {
				if parsed[i], err = parse(strings.TrimSpace(word)); err != nil {
					return fmt.Errorf("value %d: %w", i, err)
				}
			}
			if v.data != nil {
				if _, err := binary.Decode(v.data, binary.LittleEndian, parsed); err != nil {
					return err
				}
			}
			return slot.Touch(func() { copy(view, parsed) })
		},
		read: func(slot shm.Slot, output string) ([]string, error) {
			view, err := shm.View[T](slot, output)
			if err != nil {
				return nil, err
			}
			mine := make([]T, len(view))
			if err := slot.Touch(func() { copy(mine, view) }); err != nil {
				return nil, err
			}
			words := make([]string, len(mine))
			for i, value := range mine {
				words[i] = say(value)
			}
			return words, nil
		},
	}
}

func unsigned[T uint8 | uint16 | uint32 | uint64](word string) (T, error) {
	value, err := strconv.ParseUint(word, 10, 8*binary.Size(T(0)))
	return T(value), err
}

func signed[T int8 | int16 | int32 | int64](word string) (T, error) {
	value, err := strconv.ParseInt(word, 10, 8*binary.Size(T(0)))
	return T(value), err
}

func integer[T uint8 | uint16 | uint32 | uint64 | int8 | int16 | int32 | int64](value T) string {
	return fmt.Sprint(value)
}

func floating(value float64, bits int) string { return strconv.FormatFloat(value, 'g', -1, bits) }

func fileOnly(string) (uint16, error) {
	return 0, errors.New("numbers of 16 bits are read from @FILE only")
}

// half is the value of an IEEE 754 binary16.
func half(bits uint16) float64 {
	exponent, fraction := int(bits>>10&31), float64(bits&1023)
	value := math.Ldexp(fraction+1024, exponent-25)
	switch {
	case exponent == 0:
		value = math.Ldexp(fraction, -24)
	case exponent == 31 && fraction != 0:
		return math.NaN()
	case exponent == 31:
		value = math.Inf(1)
	}
	if bits>>15 != 0 {
		return -value
	}
	return value
}
