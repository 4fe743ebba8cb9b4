package shm

import (
	"fmt"
	"image"
	"image/draw"
)

const (
	side = 32 // of an image as the model sees it

	// maxPicture is the largest width and height that are scaled. JPEG has no larger ones, and an image.Uniform is
	// a billion pixels wide.
	maxPicture = 65535
)

// PixelsFromImage scales img to dst, PixelBytes bytes of planar RGB: the largest square in the middle of img, each of
// the 32 x 32 pixels the exact average of the area that it covers. What is transparent is white.
func PixelsFromImage(dst []byte, img image.Image) error {
	if len(dst) != PixelBytes {
		return fmt.Errorf("%w: got room for %d", ErrPixelCount, len(dst))
	}
	if img == nil {
		return fmt.Errorf("%w: no image", ErrImageSize)
	}
	bounds := img.Bounds()
	if bounds.Empty() || bounds.Dx() > maxPicture || bounds.Dy() > maxPicture {
		return fmt.Errorf("%w: %d x %d pixels", ErrImageSize, bounds.Dx(), bounds.Dy())
	}
	s := newScaler(min(bounds.Dx(), bounds.Dy()))
	corner := bounds.Min.Add(image.Pt((bounds.Dx()-s.size)/2, (bounds.Dy()-s.size)/2))
	// The picture is converted in strips: image/draw knows a fast way for most kinds of images, and no picture is
	// held in memory twice.
	strip := image.NewRGBA(image.Rect(0, 0, s.size, min(s.size, stripRows)))
	for y := 0; y < s.size; y += stripRows {
		draw.Draw(strip, strip.Rect, img, corner.Add(image.Pt(0, y)), draw.Src)
		for row := range min(stripRows, s.size-y) {
			s.add(y+row, strip.Pix[row*strip.Stride:])
		}
	}
	s.write(dst)
	return nil
}

// stripRows is how many rows are converted at a time: enough that draw.Draw's own costs vanish.
const stripRows = 16
