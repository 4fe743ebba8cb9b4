package pictures

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"

	"github.com/bep/imagemeta"
	"golang.org/x/image/bmp"
	"golang.org/x/image/draw"
	"golang.org/x/image/tiff"
	"golang.org/x/image/webp"
)

// A format is how a kind of file begins, and who reads it. image.RegisterFormat is not used: its table belongs to the whole
// program, and who imports another decoder would change what is taken here.
type format struct {
	name   string
	starts []string // "?" stands for any byte
	size   func(io.Reader) (image.Config, error)
	decode func(io.Reader) (image.Image, error)
	exif   imagemeta.ImageFormat // 0 where there is none
}

var formats = []format{
	{"PNG", []string{"\x89PNG\r\n\x1a\n"}, png.DecodeConfig, png.Decode, imagemeta.PNG},
	{"JPEG", []string{"\xff\xd8\xff"}, jpeg.DecodeConfig, jpeg.Decode, imagemeta.JPEG},
	{"GIF", []string{"GIF87a", "GIF89a"}, gif.DecodeConfig, gif.Decode, 0}, // Decode reads the first frame, and no other
	{"WebP", []string{"RIFF????WEBP"}, webp.DecodeConfig, decodeWebP, imagemeta.WebP},
	{"BMP", []string{"BM"}, bmp.DecodeConfig, bmp.Decode, 0},
	{"TIFF", []string{"II*\x00", "MM\x00*"}, tiff.DecodeConfig, tiff.Decode, imagemeta.TIFF},
}

// decode reads a file. A decoder that panics, for all that was read before, has found a broken file too.
func decode(ctx context.Context, data []byte) (img image.Image, turn orientation, err error) {
	found := sniff(data)
	if found == nil {
		return nil, 0, fmt.Errorf("%w: not one of %s", ErrUnreadable, Formats)
	}
	defer func() {
		if problem := recover(); problem != nil {
			img, err = nil, fmt.Errorf("%w: a broken %s: the decoder panics: %v", ErrUnreadable, found.name, problem)
		}
	}()
	broken := func(err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%w: a broken or unknown kind of %s: %w", ErrUnreadable, found.name, err)
	}
	config, err := found.size(bytes.NewReader(data))
	if err != nil {
		return nil, 0, broken(err)
	}
	if err := checkSize(int64(config.Width), int64(config.Height)); err != nil {
		return nil, 0, err
	}
	img, err = found.decode(source{ctx, bytes.NewReader(data), bytes.NewReader(data)})
	if err != nil {
		return nil, 0, broken(err)
	}
	if found.name == "GIF" {
		img = onCanvas(img, image.Rect(0, 0, config.Width, config.Height))
	}
	meta := readMetadata(found.exif, data)
	if gray, ok := img.(*image.Gray); ok && meta.inverted {
		for i := range gray.Pix {
			gray.Pix[i] = ^gray.Pix[i]
		}
	}
	return img, meta.orientation, nil
}

func sniff(data []byte) *format {
	for i := range formats {
		for _, start := range formats[i].starts {
			if len(data) >= len(start) && matches(start, data) {
				return &formats[i]
			}
		}
	}
	return nil
}

func matches(start string, data []byte) bool {
	for i, want := range []byte(start) {
		if want != '?' && data[i] != want {
			return false
		}
	}
	return true
}

// onCanvas puts a GIF's frame where it lies on the canvas. What it does not cover is transparent, as browsers have it.
func onCanvas(frame image.Image, canvas image.Rectangle) image.Image {
	if frame.Bounds() == canvas {
		return frame
	}
	composed := image.NewRGBA(canvas)
	draw.Draw(composed, frame.Bounds(), frame, frame.Bounds().Min, draw.Src)
	return composed
}

// A source fails once ctx has ended: decoders read on, and so end.
type source struct {
	ctx context.Context
	io.Reader
	at io.ReaderAt
}

func (s source) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.Reader.Read(p)
}

// ReadAt keeps the TIFF decoder from a copy of its own.
func (s source) ReadAt(p []byte, offset int64) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.at.ReadAt(p, offset)
}
