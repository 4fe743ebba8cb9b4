package pictures

import (
	"image"
	"io"

	"golang.org/x/image/webp"
)

// A conversion makes red, green and blue of a brightness and two colours.
type conversion func(y, cb, cr int) (r, g, b int)

// fromJPEG is libjpeg's, in whole numbers.
func fromJPEG(y, cb, cr int) (r, g, b int) {
	const half = 1 << 15
	cb, cr = cb-128, cr-128
	return y + (91881*cr+half)>>16, y + (half-22554*cb-46802*cr)>>16, y + (116130*cb+half)>>16
}

// fromVideo is libwebp's: lossy WebP has the range of video, black is 16 and white 235.
func fromVideo(y, cb, cr int) (r, g, b int) {
	y = y * 19077 >> 8
	return (y + cr*26149>>8 - 14234) >> 6, (y - cb*6419>>8 - cr*13320>>8 + 8708) >> 6, (y + cb*33050>>8 - 17685) >> 6
}

// decodeWebP reads a WebP. Package webp hands out the colours of a lossy one as if they were JPEG's.
func decodeWebP(r io.Reader) (image.Image, error) {
	img, err := webp.Decode(r)
	switch img := img.(type) {
	case *image.YCbCr:
		return rgb(img, img.Rect, fromVideo), nil
	case *image.NYCbCrA:
		opaque := rgb(&img.YCbCr, img.Rect, fromVideo)
		for i := 3; i < len(opaque.Pix); i += 4 {
			pixel := i / 4
			opaque.Pix[i] = img.A[pixel/img.Rect.Dx()*img.AStride+pixel%img.Rect.Dx()]
		}
		return opaque, nil
	}
	return img, err
}

// rgb is the part of img in area, with a colour for each pixel where JPEG and WebP store one for two or four. Go repeats that
// one; libjpeg and libwebp, with which the server reads, interpolate linearly between the middles of the stored ones. At
// 32 x 32 pixels the model sees the difference.
//
//	pixels    | 0 | 1 | 2 | 3 |
//	colours   |   a   |   b   |     1 = (3a + b) / 4, 2 = (a + 3b) / 4
func rgb(img *image.YCbCr, area image.Rectangle, convert conversion) *image.NRGBA {
	across, down := ratios(img.SubsampleRatio)
	width := (img.Rect.Max.X+across-1)/across - img.Rect.Min.X/across
	height := (img.Rect.Max.Y+down-1)/down - img.Rect.Min.Y/down
	interpolate := across <= 2                                                                              // libjpeg repeats those for four
	columns := taps(area.Min.X, area.Max.X, img.Rect.Min.X/across, width, across, interpolate && width > 2) // and in narrow pictures
	rows := taps(area.Min.Y, area.Max.Y, img.Rect.Min.Y/down, height, down, interpolate)
	full := image.NewNRGBA(area)
	for y, row := range rows {
		luma := img.Y[img.YOffset(area.Min.X, area.Min.Y+y):]
		blue, blueFar := img.Cb[row.near*img.CStride:], img.Cb[row.far*img.CStride:]
		red, redFar := img.Cr[row.near*img.CStride:], img.Cr[row.far*img.CStride:]
		out := full.Pix[y*full.Stride : (y+1)*full.Stride]
		for x, column := range columns {
			n, f := column.near, column.far
			up := rounding(across, down, area.Min.X+x, area.Min.Y+y)
			cb := (9*int(blue[n]) + 3*int(blueFar[n]) + 3*int(blue[f]) + int(blueFar[f]) + up) >> 4
			cr := (9*int(red[n]) + 3*int(redFar[n]) + 3*int(red[f]) + int(redFar[f]) + up) >> 4
			r, g, b := convert(int(luma[x]), cb, cr)
			pixel := out[4*x : 4*x+4]
			pixel[0], pixel[1], pixel[2], pixel[3] = clip(r), clip(g), clip(b), 255
		}
	}
	return full
}

func clip(v int) byte { return byte(min(max(v, 0), 255)) }

// rounding is what libjpeg adds before it divides by 16: less at every other pixel, so that errors cancel out.
func rounding(across, down, x, y int) int {
	switch {
	case across == 2 && down == 2:
		return 8 - x&1
	case across == 2:
		return 4 + 4*(x&1)
	case down == 2:
		return 4 + 4*(y&1)
	}
	return 0
}

// A tap is which two stored colours a pixel is between: three quarters of one, a quarter of the other.
type tap struct{ near, far int }

func taps(from, to, first, count, ratio int, interpolate bool) []tap {
	all := make([]tap, to-from)
	for i := range all {
		at := from + i
		near := at/ratio - first
		all[i] = tap{near, near}
		if ratio == 2 && interpolate {
			all[i].far = min(max(near+2*(at%2)-1, 0), count-1)
		}
	}
	return all
}

func ratios(r image.YCbCrSubsampleRatio) (across, down int) {
	switch r {
	case image.YCbCrSubsampleRatio422:
		return 2, 1
	case image.YCbCrSubsampleRatio420:
		return 2, 2
	case image.YCbCrSubsampleRatio440:
		return 1, 2
	case image.YCbCrSubsampleRatio411:
		return 4, 1
	case image.YCbCrSubsampleRatio410:
		return 4, 2
	}
	return 1, 1
}
