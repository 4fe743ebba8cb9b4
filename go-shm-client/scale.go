package shm

// A scaler averages the areas of a size x size picture that each of the 32 x 32 output pixels covers. Lengths are counted
// in 1/32 of a source pixel: there a source pixel is 32 long, an output pixel `size`, and every overlap a whole number.
// So the sums are exact. The largest, 255 x size x size, fits 64 bits for any size that a picture can have.
//
//	source   |   0   |   1   |   2   |   3   |   4   |     size = 5, scaled to 2 for the picture's sake
//	output   |         0         |         1         |     output 0 = (2x'0' + 2x'1' + 1x'2') / 5
type scaler struct {
	size int
	row  [4][side]uint64 // one source row, averaged across: R, G, B, A
	sum  [4][side * side]uint64
}

func newScaler(size int) *scaler { return &scaler{size: size} }

// add takes row y of the source: size pixels of premultiplied RGBA.
func (s *scaler) add(y int, rgba []byte) {
	s.squeeze(rgba)
	// The same along the other axis: the row is 32 high, and is shared out to the output rows that it overlaps.
	for low, high := y*side, (y+1)*side; low < high; {
		out := low / s.size
		part := min(high, (out+1)*s.size) - low
		for channel := range s.row {
			sums := s.sum[channel][out*side : (out+1)*side]
			for x, v := range s.row[channel] {
				sums[x] += uint64(part) * v
			}
		}
		low += part
	}
}

// squeeze averages one row of the source across.
func (s *scaler) squeeze(rgba []byte) {
	for out := range side {
		low, high := out*s.size, (out+1)*s.size
		var sums [4]uint64
		first, last := low/side, (high-1)/side // source pixels that the output pixel touches
		if first == last {
			addPixel(&sums, rgba, first, s.size)
		} else {
			addPixel(&sums, rgba, first, (first+1)*side-low)
			var r, g, b, a uint64 // whole pixels, most of a large picture
			for inner := rgba[4*(first+1) : 4*last]; len(inner) >= 4; inner = inner[4:] {
				r += uint64(inner[0])
				g += uint64(inner[1])
				b += uint64(inner[2])
				a += uint64(inner[3])
			}
			sums[0] += side * r
			sums[1] += side * g
			sums[2] += side * b
			sums[3] += side * a
			addPixel(&sums, rgba, last, high-last*side)
		}
		for channel, sum := range sums {
			s.row[channel][out] = sum
		}
	}
}

func addPixel(sums *[4]uint64, rgba []byte, at, weight int) {
	for channel, v := range rgba[4*at : 4*at+4] {
		sums[channel] += uint64(weight) * uint64(v)
	}
}

// write rounds the averages to dst, over white: colours are premultiplied, so white shines through by 255 - alpha.
func (s *scaler) write(dst []byte) {
	area := uint64(s.size) * uint64(s.size)
	for i := range side * side {
		white := 255*area - s.sum[3][i]
		for channel := range 3 {
			dst[channel*side*side+i] = byte(min(255, (s.sum[channel][i]+white+area/2)/area))
		}
	}
}
