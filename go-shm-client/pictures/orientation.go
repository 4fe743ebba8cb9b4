package pictures

import "image"

// An orientation is how a picture's pixels lie, as EXIF counts it: 1 upright, 6 for a phone held upright. Others are upright.
type orientation int

const upright orientation = 1

// mirrored says which of the stored axes run from right to left, or from bottom to top, when the picture is upright.
func (o orientation) mirrored() (x, y bool) {
	return o == 2 || o == 3 || o == 7 || o == 8, o == 3 || o == 4 || o == 6 || o == 7
}

// turned says whether rows are stored as columns.
func (o orientation) turned() bool { return o >= 5 && o <= 8 }

// square is the largest square in the middle of the picture. Where it cannot lie in the middle it lies half a pixel to the
// left or up in the upright picture: the same square, however the picture is stored.
func (o orientation) square(bounds image.Rectangle) image.Rectangle {
	side := min(bounds.Dx(), bounds.Dy())
	room := image.Pt(bounds.Dx()-side, bounds.Dy()-side)
	corner := room.Div(2)
	x, y := o.mirrored()
	if x {
		corner.X = room.X - corner.X
	}
	if y {
		corner.Y = room.Y - corner.Y
	}
	return image.Rect(0, 0, side, side).Add(bounds.Min).Add(corner)
}

// stored is where the pixel (x, y) of the upright square, of side pixels, lies in the stored one.
func (o orientation) stored(x, y, side int) (int, int) {
	if o.turned() {
		x, y = y, x
	}
	mirrorX, mirrorY := o.mirrored()
	if mirrorX {
		x = side - 1 - x
	}
	if mirrorY {
		y = side - 1 - y
	}
	return x, y
}
