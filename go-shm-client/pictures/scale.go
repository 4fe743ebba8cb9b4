package pictures

import (
	"image"
	"image/color"

	"golang.org/x/image/draw"

	shm "go-shm-client"
)

const side = 32 // of a picture as the model sees it

// scale makes planar RGB of img: its middle square, upright, on white.
//
// CatmullRom is what Pillow calls BICUBIC, with which the server scales; both widen it where they shrink. Both scale colours
// that are multiplied by their opacity, and lay the result on white.
func scale(img image.Image, turn orientation) []byte {
	square := turn.square(img.Bounds())
	small := image.NewRGBA64(image.Rect(0, 0, side, side)) // package draw cuts off what does not fit 8 bits
	draw.CatmullRom.Scale(small, small.Rect, likePillow(img, square), square, draw.Src, nil)
	pixels := make([]byte, shm.PixelBytes)
	for y := range side {
		for x := range side {
			colour := small.RGBA64At(turn.stored(x, y, side))
			white := 0xffff - int(colour.A)
			for channel, value := range []uint16{colour.R, colour.G, colour.B} {
				pixels[channel*side*side+y*side+x] = byte((min(0xffff, int(value)+white) + 0x80) / 0x101)
			}
		}
	}
	return pixels
}

// likePillow is img, as far as it is in area, where Go's libraries see it otherwise than Pillow.
func likePillow(img image.Image, area image.Rectangle) image.Image {
	switch img := img.(type) {
	case *image.YCbCr:
		return rgb(img, area, fromJPEG)
	case *image.Gray16:
		return &image.Gray{Pix: upperBytes(img.Pix), Stride: img.Stride / 2, Rect: img.Rect}
	case *image.RGBA64:
		return &image.RGBA{Pix: upperBytes(img.Pix), Stride: img.Stride / 2, Rect: img.Rect}
	case *image.NRGBA64:
		return &image.NRGBA{Pix: upperBytes(img.Pix), Stride: img.Stride / 2, Rect: img.Rect}
	case *image.Paletted:
		upper := *img
		upper.Palette = make(color.Palette, len(img.Palette))
		for i, entry := range img.Palette {
			if deep, ok := entry.(color.RGBA64); ok {
				entry = color.RGBA{byte(deep.R >> 8), byte(deep.G >> 8), byte(deep.B >> 8), byte(deep.A >> 8)}
			}
			upper.Palette[i] = entry
		}
		return &upper
	}
	return img
}

// upperBytes are 8 of each sample's 16 bits: those that Pillow keeps.
func upperBytes(samples []byte) []byte {
	upper := make([]byte, len(samples)/2)
	for i := range upper {
		upper[i] = samples[2*i]
	}
	return upper
}
