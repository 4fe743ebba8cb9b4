package pictures

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/bep/imagemeta"
	"golang.org/x/image/bmp"
	"golang.org/x/image/draw"
	"golang.org/x/image/tiff"

	shm "go-shm-client"
)

func noise(width, height int) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, width, height))
	random := rand.New(rand.NewPCG(1, 2))
	for i := range img.Pix {
		img.Pix[i] = byte(random.Uint32())
		if i%4 == 3 {
			img.Pix[i] = 255
		}
	}
	return img
}

func encode(t *testing.T, write func(io.Writer) error) []byte {
	t.Helper()
	var file bytes.Buffer
	if err := write(&file); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func read(t *testing.T, file []byte) []byte {
	t.Helper()
	pixels, err := Read(context.Background(), bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	return pixels
}

func TestAPictureOfTheModelsOwnSizeIsNotChanged(t *testing.T) {
	img := noise(32, 32)
	files := map[string][]byte{
		"PNG":  encode(t, func(w io.Writer) error { return png.Encode(w, img) }),
		"BMP":  encode(t, func(w io.Writer) error { return bmp.Encode(w, img) }),
		"TIFF": encode(t, func(w io.Writer) error { return tiff.Encode(w, img, nil) }),
	}
	for name, file := range files {
		pixels := read(t, file)
		for i := range 1024 {
			if pixels[i] != img.Pix[4*i] || pixels[1024+i] != img.Pix[4*i+1] || pixels[2048+i] != img.Pix[4*i+2] {
				t.Fatalf("%s: pixel %d", name, i)
			}
		}
	}
}

func TestTheMiddleSquareIsTakenAndWhatIsTransparentIsWhite(t *testing.T) {
	img := image.NewNRGBA(image.Rect(0, 0, 96, 32)) // transparent, but for the middle's left half
	draw.Draw(img, image.Rect(0, 0, 32, 32), image.NewUniform(color.RGBA{255, 0, 0, 255}), image.Point{}, draw.Src)
	draw.Draw(img, image.Rect(32, 0, 48, 32), image.NewUniform(color.NRGBA{0, 0, 255, 255}), image.Point{}, draw.Src)
	pixels, err := FromImage(img)
	if err != nil {
		t.Fatal(err)
	}
	for x := range 32 {
		want := [3]byte{255, 255, 255}
		if x < 16 {
			want = [3]byte{0, 0, 255}
		}
		if got := [3]byte{pixels[x], pixels[1024+x], pixels[2048+x]}; got != want {
			t.Errorf("column %d is %v, want %v", x, got, want)
		}
	}
}

func TestEverySizeOfAFlatPictureStaysFlat(t *testing.T) {
	for _, size := range []image.Point{{1, 1}, {2, 3}, {31, 33}, {1, 60000}, {60000, 1}, {500, 333}} {
		for name, img := range map[string]draw.Image{
			"NRGBA":    image.NewNRGBA(image.Rectangle{Max: size}),
			"Gray16":   image.NewGray16(image.Rectangle{Max: size}),
			"Paletted": image.NewPaletted(image.Rectangle{Max: size}, color.Palette{color.Gray{200}}),
			"Offset":   image.NewRGBA(image.Rectangle{Max: size}.Add(image.Pt(-7, 1000))),
		} {
			draw.Draw(img, img.Bounds(), image.NewUniform(color.Gray{200}), image.Point{}, draw.Src)
			pixels, err := FromImage(img)
			if err != nil {
				t.Fatal(err)
			}
			for i, v := range pixels {
				if v != 200 {
					t.Fatalf("%s of %v: byte %d is %d", name, size, i, v)
				}
			}
		}
	}
}

func TestColoursThatAreStoredForTwoPixelsAreInterpolatedInEveryRatio(t *testing.T) {
	for _, ratio := range []image.YCbCrSubsampleRatio{
		image.YCbCrSubsampleRatio444, image.YCbCrSubsampleRatio422, image.YCbCrSubsampleRatio420,
		image.YCbCrSubsampleRatio440, image.YCbCrSubsampleRatio411, image.YCbCrSubsampleRatio410,
	} {
		for _, size := range []image.Point{{1, 1}, {5, 3}, {32, 32}, {33, 35}, {64, 40}} {
			img := image.NewYCbCr(image.Rectangle{Max: size}, ratio)
			for i := range img.Y {
				img.Y[i] = 100
			}
			for i := range img.Cb {
				img.Cb[i], img.Cr[i] = 128, 168
			}
			if size.X > 4 { // also a part of a picture
				img = img.SubImage(image.Rect(1, 1, size.X, size.Y)).(*image.YCbCr)
			}
			pixels, err := FromImage(img)
			if err != nil {
				t.Fatal(err)
			}
			if got := [3]byte{pixels[0], pixels[1024], pixels[3071]}; got != [3]byte{156, 71, 100} {
				t.Errorf("%v of %v: %v", ratio, size, got)
			}
		}
	}
}

func TestTooLargeIsSaidBeforeMemoryIsTaken(t *testing.T) {
	header := encode(t, func(w io.Writer) error { return png.Encode(w, image.NewGray(image.Rect(0, 0, 1, 1))) })
	gifHeader := encode(t, func(w io.Writer) error {
		return gif.Encode(w, image.NewPaletted(image.Rect(0, 0, 1, 1), color.Palette{color.Black}), nil)
	})
	binary.LittleEndian.PutUint32(gifHeader[6:], 0xffffffff)
	for name, file := range map[string][]byte{
		"a file of 16 MiB and a byte": append(header, make([]byte, MaxBytes-len(header)+1)...),
		"a GIF's canvas":              gifHeader,
	} {
		if _, err := Read(context.Background(), bytes.NewReader(file)); !errors.Is(err, ErrTooLarge) || !errors.Is(err, shm.ErrNotRun) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Read(context.Background(), endless{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an endless file: %v", err)
	}
	for name, img := range map[string]image.Image{
		"a uniform colour": image.NewUniform(color.White), // a billion pixels wide
		"too many pixels":  &image.Gray{Rect: image.Rect(0, 0, 1<<14, 1<<12+1)},
	} {
		if _, err := FromImage(img); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, "\x89PNG\r\n\x1a\n"), nil }

func TestWhatIsNoPictureIsTypedAndOneLine(t *testing.T) {
	for name, file := range map[string]string{
		"nothing": "", "text": "no picture", "a PNG's beginning": "\x89PNG\r\n\x1a\n", "a WAV": "RIFF\x10\x00\x00\x00WAVEfmt ",
		"a TIFF without an end": "II*\x00\xff\xff\xff\xff", "a JPEG's beginning": "\xff\xd8\xff",
	} {
		_, err := Read(context.Background(), strings.NewReader(file))
		if !errors.Is(err, ErrUnreadable) || !errors.Is(err, shm.ErrNotRun) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, img := range map[string]image.Image{"no picture": nil, "no width": image.NewRGBA(image.Rect(0, 0, 0, 10))} {
		if _, err := FromImage(img); !errors.Is(err, ErrUnreadable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestADecoderThatPanicsHasFoundABrokenFile(t *testing.T) {
	formats = append(formats, format{"Fake", []string{"FAKE"}, func(io.Reader) (image.Config, error) {
		return image.Config{Width: 1, Height: 1}, nil
	}, func(io.Reader) (image.Image, error) { panic("index out of range") }, 0})
	defer func() { formats = formats[:len(formats)-1] }()
	if _, err := Read(context.Background(), strings.NewReader("FAKE")); !errors.Is(err, ErrUnreadable) || !strings.Contains(err.Error(), "index out of range") {
		t.Error(err)
	}
}

func TestTheEndOfTheContextEndsTheReadingAndTheDecoding(t *testing.T) {
	late := errors.New("nothing within -timeout")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(late)
	if _, err := Read(ctx, strings.NewReader("")); !errors.Is(err, late) {
		t.Errorf("before the reading: %v", err)
	}
	file := encode(t, func(w io.Writer) error { return png.Encode(w, noise(300, 300)) })
	ctx, cancel = context.WithCancelCause(context.Background())
	formats[0].size = func(r io.Reader) (image.Config, error) { // the last that happens before the decoding
		defer cancel(late)
		return png.DecodeConfig(r)
	}
	defer func() { formats[0].size = png.DecodeConfig }()
	if _, err := Read(ctx, bytes.NewReader(file)); !errors.Is(err, late) {
		t.Errorf("before the decoding: %v", err)
	}
}

// withOrientation is a JPEG with EXIF data in front: a directory of one tag.
func withOrientation(jpegFile []byte, value uint16) []byte {
	exif := []byte("Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	binary.LittleEndian.PutUint16(exif[24:], value)
	segment := binary.BigEndian.AppendUint16([]byte{0xff, 0xe1}, uint16(len(exif)+2))
	return append(append(append([]byte{0xff, 0xd8}, segment...), exif...), jpegFile[2:]...)
}

func TestOrientationIsReadAndWhatIsOutOfRangeOrBrokenIsUpright(t *testing.T) {
	plain := encode(t, func(w io.Writer) error { return jpeg.Encode(w, noise(40, 30), nil) })
	for value := range uint16(12) {
		file := withOrientation(plain, value)
		want := upright
		if value >= 1 && value <= 8 {
			want = orientation(value)
		}
		if got := readMetadata(imagemeta.JPEG, file).orientation; got != want {
			t.Errorf("%d: %d", value, got)
		}
		for cut := range 40 {
			readMetadata(imagemeta.JPEG, file[:cut]) // must return
		}
	}
}

func TestAPictureIsTheSameHoweverItIsStored(t *testing.T) {
	for _, size := range []image.Point{{40, 33}, {33, 40}, {32, 32}, {65, 32}} {
		picture := noise(size.X, size.Y)
		want := scale(picture, upright)
		for turn := orientation(2); turn <= 8; turn++ {
			stored := image.NewNRGBA(picture.Rect)
			if turn.turned() {
				stored = image.NewNRGBA(image.Rect(0, 0, size.Y, size.X))
			}
			for y := range size.Y {
				for x := range size.X {
					storedX, storedY := storedAt(turn, x, y, size)
					stored.Set(storedX, storedY, picture.At(x, y))
				}
			}
			if got := scale(stored, turn); !bytes.Equal(got, want) {
				t.Errorf("%v, orientation %d", size, turn)
			}
		}
	}
}

// storedAt is where EXIF says that a pixel of an upright picture of this size is stored.
func storedAt(turn orientation, x, y int, size image.Point) (int, int) {
	right, bottom := size.X-1-x, size.Y-1-y
	switch turn {
	case 2: // the 0th row is the top, the 0th column the right-hand side
		return right, y
	case 3: // bottom, right
		return right, bottom
	case 4: // bottom, left
		return x, bottom
	case 5: // the 0th row is the left-hand side, the 0th column the top
		return y, x
	case 6: // right, top
		return y, right
	case 7: // right, bottom
		return bottom, right
	case 8: // left, bottom
		return bottom, x
	}
	return x, y
}

func TestAGIFsFrameLiesOnItsCanvas(t *testing.T) {
	frame := image.NewPaletted(image.Rect(32, 0, 64, 64), color.Palette{color.Black})
	file := encode(t, func(w io.Writer) error {
		return gif.EncodeAll(w, &gif.GIF{Image: []*image.Paletted{frame}, Delay: []int{0}, Config: image.Config{Width: 64, Height: 64}})
	})
	pixels := read(t, file)
	if pixels[0] != 255 || pixels[31] != 0 {
		t.Errorf("left of it %d, in it %d", pixels[0], pixels[31])
	}
}

func BenchmarkRead(b *testing.B) {
	var file bytes.Buffer
	if err := jpeg.Encode(&file, noise(4000, 3000), &jpeg.Options{Quality: 60}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Read(context.Background(), bytes.NewReader(file.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
}
