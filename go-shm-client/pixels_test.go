package shm

import (
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"math"
	"math/rand/v2"
	"testing"
)

// reference averages by the definition: for each output pixel, every source pixel's share of it, in floats, read one
// by one through the interface.
func reference(img image.Image) []byte {
	b := img.Bounds()
	size := min(b.Dx(), b.Dy())
	x0, y0 := b.Min.X+(b.Dx()-size)/2, b.Min.Y+(b.Dy()-size)/2
	step := float64(size) / 32
	share := func(source int, low, high float64) float64 {
		return max(0, min(high, float64(source+1))-max(low, float64(source)))
	}
	out := make([]byte, PixelBytes)
	for oy := range 32 {
		for ox := range 32 {
			left, right := float64(ox)*step, float64(ox+1)*step
			top, bottom := float64(oy)*step, float64(oy+1)*step
			var sum [3]float64
			for y := int(top); y < min(size, int(math.Ceil(bottom))); y++ {
				for x := int(left); x < min(size, int(math.Ceil(right))); x++ {
					c := color.RGBAModel.Convert(img.At(x0+x, y0+y)).(color.RGBA)
					weight := share(x, left, right) * share(y, top, bottom)
					for channel, v := range []uint8{c.R, c.G, c.B} {
						sum[channel] += weight * (float64(v) + 255 - float64(c.A))
					}
				}
			}
			for channel := range 3 {
				out[channel*1024+oy*32+ox] = byte(min(255, math.Round(sum[channel]/(step*step))))
			}
		}
	}
	return out
}

func noise(seed uint64, img draw.Image) image.Image {
	random := rand.New(rand.NewPCG(seed, 0))
	b := img.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			n := random.Uint32()
			img.Set(x, y, color.NRGBA{uint8(n), uint8(n >> 8), uint8(n >> 16), uint8(n >> 24)})
		}
	}
	return img
}

func TestScalingIsTheExactAverageOfTheAreas(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	for _, size := range []image.Point{{32, 32}, {1, 1}, {2, 2}, {31, 31}, {33, 33}, {64, 64}, {50, 70}, {70, 50}, {100, 33}, {640, 480}, {1, 200}, {97, 301}} {
		// Bounds that do not begin at 0, as a sub-image's do.
		bounds := image.Rectangle{image.Pt(-7, 13), image.Pt(-7, 13).Add(size)}
		ycbcr := image.NewYCbCr(bounds, image.YCbCrSubsampleRatio420)
		for i := range ycbcr.Y {
			ycbcr.Y[i] = byte(i * 31)
		}
		for i := range ycbcr.Cb {
			ycbcr.Cb[i], ycbcr.Cr[i] = byte(i*17), byte(i*29)
		}
		for name, img := range map[string]image.Image{
			"RGBA":     noise(seed, image.NewRGBA(bounds)),
			"NRGBA":    noise(seed, image.NewNRGBA(bounds)),
			"Gray":     noise(seed, image.NewGray(bounds)),
			"YCbCr":    ycbcr,
			"Paletted": noise(seed, image.NewPaletted(bounds, color.Palette{color.Black, color.White, color.Transparent})),
			"RGBA64":   noise(seed, image.NewRGBA64(bounds)),
		} {
			t.Run(fmt.Sprint(name, " ", size), func(t *testing.T) {
				got := make([]byte, PixelBytes)
				if err := PixelsFromImage(got, img); err != nil {
					t.Fatal(err)
				}
				for i, want := range reference(img) {
					if d := int(got[i]) - int(want); d < -1 || d > 1 { // 1: where the average lies between two
						t.Fatalf("byte %d is %d, want %d", i, got[i], want)
					}
				}
			})
		}
	}
}

func TestAPictureOf32By32IsTakenAsItIs(t *testing.T) {
	img := image.NewRGBA(image.Rect(0, 0, 32, 32))
	for i := range img.Pix {
		img.Pix[i] = byte(i * 7)
		if i%4 == 3 {
			img.Pix[i] = 255
		}
	}
	got := make([]byte, PixelBytes)
	if err := PixelsFromImage(got, img); err != nil {
		t.Fatal(err)
	}
	for y := range 32 {
		for x := range 32 {
			c := img.RGBAAt(x, y)
			if at := y*32 + x; got[at] != c.R || got[1024+at] != c.G || got[2048+at] != c.B {
				t.Fatalf("pixel %d, %d", x, y)
			}
		}
	}
}

func TestTheMiddleSquareIsTakenAndWhatIsTransparentIsWhite(t *testing.T) {
	img := image.NewNRGBA(image.Rect(0, 0, 96, 32)) // transparent, but for the middle's left half
	draw.Draw(img, image.Rect(0, 0, 32, 32), image.NewUniform(color.RGBA{255, 0, 0, 255}), image.Point{}, draw.Src)
	draw.Draw(img, image.Rect(32, 0, 48, 32), image.NewUniform(color.NRGBA{0, 0, 255, 255}), image.Point{}, draw.Src)
	got := make([]byte, PixelBytes)
	if err := PixelsFromImage(got, img); err != nil {
		t.Fatal(err)
	}
	for x := range 32 {
		want := [3]byte{255, 255, 255}
		if x < 16 {
			want = [3]byte{0, 0, 255}
		}
		if got := [3]byte{got[x], got[1024+x], got[2048+x]}; got != want {
			t.Errorf("column %d is %v, want %v", x, got, want)
		}
	}
}

func TestPicturesThatCannotBeScaledAreTypedErrors(t *testing.T) {
	dst := make([]byte, PixelBytes)
	for name, img := range map[string]image.Image{
		"no picture":       nil,
		"no width":         image.NewRGBA(image.Rect(0, 0, 0, 10)),
		"no height":        image.NewRGBA(image.Rect(0, 0, 10, 0)),
		"a uniform colour": image.NewUniform(color.White), // a billion pixels wide
		"too wide":         image.NewGray(image.Rect(0, 0, 65536, 1)),
	} {
		if err := PixelsFromImage(dst, img); !errors.Is(err, ErrImageSize) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := PixelsFromImage(dst[:10], image.NewGray(image.Rect(0, 0, 9, 9))); !errors.Is(err, ErrPixelCount) {
		t.Errorf("no room: %v", err)
	}
	client := dialFake(t, startFake(t, 1))
	if _, err := client.ClassifyImage(soon(t), image.NewRGBA(image.Rectangle{})); !errors.Is(err, ErrImageSize) {
		t.Errorf("ClassifyImage: %v", err)
	}
	if client.Stats().Requests != 0 {
		t.Error("it was sent")
	}
	if result, err := client.ClassifyImage(soon(t), image.NewGray(image.Rect(0, 0, 5, 9))); err != nil || result.Label != "dark" {
		t.Errorf("a black picture: %+v, %v", result, err)
	}
}

func BenchmarkPixelsFromImage(b *testing.B) {
	dst := make([]byte, PixelBytes)
	for _, c := range []struct {
		name string
		img  image.Image
	}{
		{"12 megapixels of YCbCr", image.NewYCbCr(image.Rect(0, 0, 4000, 3000), image.YCbCrSubsampleRatio420)},
		{"256 x 256 of NRGBA", image.NewNRGBA(image.Rect(0, 0, 256, 256))},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if err := PixelsFromImage(dst, c.img); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
