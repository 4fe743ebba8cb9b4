package pictures

import (
	"bytes"

	"github.com/bep/imagemeta"
)

// metadata is what a file says about its main picture, beside the pixels.
type metadata struct {
	orientation orientation
	inverted    bool // package tiff has black and white the wrong way round, see below
}

// readMetadata reads it. Broken EXIF data is no reason to refuse a picture.
func readMetadata(format imagemeta.ImageFormat, data []byte) metadata {
	tags := map[string]uint32{"Orientation": uint32(upright)}
	if format == 0 {
		return metadata{orientation: upright}
	}
	_, err := imagemeta.Decode(imagemeta.Options{
		R:           bytes.NewReader(data),
		ImageFormat: format,
		Sources:     imagemeta.EXIF,
		ShouldHandleTag: func(tag imagemeta.TagInfo) bool {
			return tag.Namespace == "IFD0" && (tag.Tag == "Orientation" || tag.Tag == "Compression" || tag.Tag == "PhotometricInterpretation")
		},
		HandleTag: func(tag imagemeta.TagInfo) error {
			switch value := tag.Value.(type) { // a uint16, says the standard; the others are written too
			case uint8:
				tags[tag.Tag] = uint32(value)
			case uint16:
				tags[tag.Tag] = uint32(value)
			case uint32:
				tags[tag.Tag] = value
			}
			return nil
		},
	})
	found := metadata{orientation: upright}
	if value := tags["Orientation"]; err == nil && value >= 1 && value <= 8 {
		found.orientation = orientation(value)
	}
	// Where a fax says that black is 0, its codes mean the opposite (TIFF 6.0, section 11); package tiff does not turn them.
	fax := tags["Compression"] == 3 || tags["Compression"] == 4
	found.inverted = format == imagemeta.TIFF && fax && tags["PhotometricInterpretation"] == 1
	return found
}
