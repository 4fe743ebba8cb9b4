// Package pictures makes of picture files the pixels that a model sees, the same that the server makes of them over HTTP.
//
//	file, err := os.Open("cat.jpg")
//	result, err := pictures.Classify(ctx, client, file)
//
// PNG, JPEG, GIF, WebP, BMP and TIFF are taken, told apart by their bytes and not by their names. A picture is turned as
// its EXIF data says; its middle square is scaled to 32 x 32 pixels; what is transparent is white. Of an animation, the
// first frame counts. Colour profiles and gamma are ignored.
//
// A file has at most MaxBytes, a picture at most MaxPixels; its size is read before memory is taken for it.
//
// It is a module of its own: it depends on golang.org/x/image and on an EXIF reader, the client on the standard library only.
package pictures

import (
	"context"
	"errors"
	"fmt"
	"image"
	"io"

	shm "go-shm-client"
	"go-shm-client/internal/fault"
)

// Both limits are the server's, too (shm_server/gateways/images.py and http.py); a test compares them.
const (
	// MaxBytes is the size of the largest file that is taken. A camera's picture has a few megabytes.
	MaxBytes = 16 << 20
	// MaxPixels is width times height of the largest picture. A few kilobytes can unpack to gigabytes; this is more than
	// most cameras have, and up to a gigabyte while it is decoded.
	MaxPixels = 1 << 26
)

// Formats names what is taken.
const Formats = "PNG, JPEG, GIF, WebP, BMP and TIFF"

// Both are shm.ErrNotRun: nothing was sent.
var (
	// ErrTooLarge: the file has more than MaxBytes, or the picture more than MaxPixels.
	ErrTooLarge = fault.As(errors.New("picture too large"), fault.NotRun)
	// ErrUnreadable: the file is no picture of a format that is taken, or a broken one.
	ErrUnreadable = fault.As(errors.New("no readable picture"), fault.NotRun)
)

// Classify classifies the picture that r has. Nothing of it is sent when it cannot be read.
func Classify(ctx context.Context, client *shm.Client, r io.Reader, opts ...shm.CallOption) (shm.Result, error) {
	pixels, err := Read(ctx, r)
	if err != nil {
		return shm.Result{}, err
	}
	return client.Classify(ctx, pixels, opts...)
}

// ClassifyImage classifies a picture that is decoded already, of any size.
func ClassifyImage(ctx context.Context, client *shm.Client, img image.Image, opts ...shm.CallOption) (shm.Result, error) {
	pixels, err := FromImage(img)
	if err != nil {
		return shm.Result{}, err
	}
	return client.Classify(ctx, pixels, opts...)
}

// Read makes the shm.PixelBytes bytes of planar RGB of the picture that r has. The end of ctx ends the decoding, which a
// picture can make slow on purpose, but not a Read of r that blocks.
func Read(ctx context.Context, r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(source{ctx: ctx, Reader: r}, MaxBytes+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > MaxBytes:
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, MaxBytes)
	}
	img, orientation, err := decode(ctx, data)
	if err != nil {
		return nil, err
	}
	return scale(img, orientation), nil
}

// FromImage makes the shm.PixelBytes bytes of planar RGB of img.
func FromImage(img image.Image) ([]byte, error) {
	if img == nil {
		return nil, fmt.Errorf("%w: no image", ErrUnreadable)
	}
	bounds := img.Bounds()
	if err := checkSize(int64(bounds.Dx()), int64(bounds.Dy())); err != nil {
		return nil, err
	}
	return scale(img, upright), nil
}

// checkSize says whether memory may be taken for a picture.
func checkSize(width, height int64) error {
	switch {
	case width < 1 || height < 1:
		return fmt.Errorf("%w: %d x %d pixels", ErrUnreadable, width, height)
	case width > MaxPixels/height: // the product may overflow
		return fmt.Errorf("%w: %d x %d pixels, at most %d are taken", ErrTooLarge, width, height, MaxPixels)
	}
	return nil
}
