// Code generated from layout.md by tools/generate_layout.py; DO NOT EDIT.

package layout

import (
	"encoding/binary"
	"math"

	"go-shm-client/internal/fault"
)

// LayoutMajor: raised when an old peer would misread the segment; majors must be equal.
const LayoutMajor = 2

// LayoutMinor: raised when something was added that an old peer can ignore.
const LayoutMinor = 0

// SegmentMagic: the bytes `STENSOR1`.
const SegmentMagic = 0x31524f534e455453

// FrameMagic: the bytes `STB1`; its first byte differs from `bell`.
const FrameMagic = 826430547

// Bell: the one byte of a bell.
const Bell = 1

// PageBytes: header size, and alignment of every ring and area.
const PageBytes = 4096

// LineBytes: what one side writes never shares this many aligned bytes with what the other writes: two 64-byte lines, since processors prefetch lines in pairs.
const LineBytes = 128

// EntryBytes: one ring entry, one cache line.
const EntryBytes = 64

// RowAlignment: what the bytes of a tensor's row are a multiple of.
const RowAlignment = 64

// MessageBytes: of a slot's message: room for why a call failed.
const MessageBytes = 256

// MaxModelNameBytes: of the model's name in a hello.
const MaxModelNameBytes = 255

// MaxTensors: inputs and outputs of a model together.
const MaxTensors = 24

// MaxRank: dimensions of a tensor, without that of the batch.
const MaxRank = 8

// MaxTextBytes: prompt and reply of a stream lane, each.
const MaxTextBytes = 16777216

// MaxSlots: slots of a lane.
const MaxSlots = 65536

// MaxSegmentBytes: 1 GiB, checked by both sides before mapping.
const MaxSegmentBytes = 1073741824

// MaxFrameBody: bytes of a handshake message's body.
const MaxFrameBody = 65536

// MaxQuestionBytes: of a question.
const MaxQuestionBytes = 1024

// HeaderBytes is the size of Header in memory.
const HeaderBytes = 4096

// HeaderMagicAt is the offset of header.magic.
const HeaderMagicAt = 0

// HeaderLayoutMajorAt is the offset of header.layout_major.
const HeaderLayoutMajorAt = 8

// HeaderLayoutMinorAt is the offset of header.layout_minor.
const HeaderLayoutMinorAt = 10

// HeaderHeaderBytesAt is the offset of header.header_bytes.
const HeaderHeaderBytesAt = 12

// HeaderSegmentBytesAt is the offset of header.segment_bytes.
const HeaderSegmentBytesAt = 16

// HeaderEpochAt is the offset of header.epoch.
const HeaderEpochAt = 24

// HeaderFeaturesRequiredAt is the offset of header.features_required.
const HeaderFeaturesRequiredAt = 32

// HeaderFeaturesOptionalAt is the offset of header.features_optional.
const HeaderFeaturesOptionalAt = 40

// HeaderLaneAt is the offset of header.lane.
const HeaderLaneAt = 128

// HeaderTensorsAt is the offset of header.tensors.
const HeaderTensorsAt = 256

// HeaderServerParkedAt is the offset of header.server_parked.
const HeaderServerParkedAt = 2048

// HeaderClientParkedAt is the offset of header.client_parked.
const HeaderClientParkedAt = 2176

// HeaderServerStateAt is the offset of header.server_state.
const HeaderServerStateAt = 2304

// Header is a private copy of the struct header of layout.md.
type Header struct {
	Magic            uint64
	LayoutMajor      uint16
	LayoutMinor      uint16
	HeaderBytes      uint32
	SegmentBytes     uint64
	Epoch            uint64
	FeaturesRequired uint64
	FeaturesOptional uint64
	ServerParked     uint32
	ClientParked     uint32
	ServerState      uint32
}

// DecodeHeader copies the fields out of b, which holds at least HeaderBytes bytes.
func DecodeHeader(b []byte) Header {
	_ = b[HeaderBytes-1]
	return Header{
		Magic:            binary.LittleEndian.Uint64(b[0:]),
		LayoutMajor:      binary.LittleEndian.Uint16(b[8:]),
		LayoutMinor:      binary.LittleEndian.Uint16(b[10:]),
		HeaderBytes:      binary.LittleEndian.Uint32(b[12:]),
		SegmentBytes:     binary.LittleEndian.Uint64(b[16:]),
		Epoch:            binary.LittleEndian.Uint64(b[24:]),
		FeaturesRequired: binary.LittleEndian.Uint64(b[32:]),
		FeaturesOptional: binary.LittleEndian.Uint64(b[40:]),
		ServerParked:     binary.LittleEndian.Uint32(b[2048:]),
		ClientParked:     binary.LittleEndian.Uint32(b[2176:]),
		ServerState:      binary.LittleEndian.Uint32(b[2304:]),
	}
}

// Encode writes the fields to b, which holds at least HeaderBytes bytes.
func (s Header) Encode(b []byte) {
	_ = b[HeaderBytes-1]
	binary.LittleEndian.PutUint64(b[0:], s.Magic)
	binary.LittleEndian.PutUint16(b[8:], s.LayoutMajor)
	binary.LittleEndian.PutUint16(b[10:], s.LayoutMinor)
	binary.LittleEndian.PutUint32(b[12:], s.HeaderBytes)
	binary.LittleEndian.PutUint64(b[16:], s.SegmentBytes)
	binary.LittleEndian.PutUint64(b[24:], s.Epoch)
	binary.LittleEndian.PutUint64(b[32:], s.FeaturesRequired)
	binary.LittleEndian.PutUint64(b[40:], s.FeaturesOptional)
	binary.LittleEndian.PutUint32(b[2048:], s.ServerParked)
	binary.LittleEndian.PutUint32(b[2176:], s.ClientParked)
	binary.LittleEndian.PutUint32(b[2304:], s.ServerState)
}

// LaneBytes is the size of Lane in memory.
const LaneBytes = 128

// LaneProtocolAt is the offset of lane.protocol.
const LaneProtocolAt = 0

// LaneSlotCountAt is the offset of lane.slot_count.
const LaneSlotCountAt = 4

// LaneSubmissionEntriesAt is the offset of lane.submission_entries.
const LaneSubmissionEntriesAt = 8

// LaneCompletionEntriesAt is the offset of lane.completion_entries.
const LaneCompletionEntriesAt = 12

// LaneInputCountAt is the offset of lane.input_count.
const LaneInputCountAt = 16

// LaneOutputCountAt is the offset of lane.output_count.
const LaneOutputCountAt = 20

// LaneSubmissionsOffsetAt is the offset of lane.submissions_offset.
const LaneSubmissionsOffsetAt = 24

// LaneCompletionsOffsetAt is the offset of lane.completions_offset.
const LaneCompletionsOffsetAt = 32

// LaneMessagesOffsetAt is the offset of lane.messages_offset.
const LaneMessagesOffsetAt = 40

// LaneControlsOffsetAt is the offset of lane.controls_offset.
const LaneControlsOffsetAt = 48

// LaneProgressOffsetAt is the offset of lane.progress_offset.
const LaneProgressOffsetAt = 56

// Lane is a private copy of the struct lane of layout.md.
type Lane struct {
	Protocol          uint32
	SlotCount         uint32
	SubmissionEntries uint32
	CompletionEntries uint32
	InputCount        uint32
	OutputCount       uint32
	SubmissionsOffset uint64
	CompletionsOffset uint64
	MessagesOffset    uint64
	ControlsOffset    uint64
	ProgressOffset    uint64
}

// DecodeLane copies the fields out of b, which holds at least LaneBytes bytes.
func DecodeLane(b []byte) Lane {
	_ = b[LaneBytes-1]
	return Lane{
		Protocol:          binary.LittleEndian.Uint32(b[0:]),
		SlotCount:         binary.LittleEndian.Uint32(b[4:]),
		SubmissionEntries: binary.LittleEndian.Uint32(b[8:]),
		CompletionEntries: binary.LittleEndian.Uint32(b[12:]),
		InputCount:        binary.LittleEndian.Uint32(b[16:]),
		OutputCount:       binary.LittleEndian.Uint32(b[20:]),
		SubmissionsOffset: binary.LittleEndian.Uint64(b[24:]),
		CompletionsOffset: binary.LittleEndian.Uint64(b[32:]),
		MessagesOffset:    binary.LittleEndian.Uint64(b[40:]),
		ControlsOffset:    binary.LittleEndian.Uint64(b[48:]),
		ProgressOffset:    binary.LittleEndian.Uint64(b[56:]),
	}
}

// Encode writes the fields to b, which holds at least LaneBytes bytes.
func (s Lane) Encode(b []byte) {
	_ = b[LaneBytes-1]
	binary.LittleEndian.PutUint32(b[0:], s.Protocol)
	binary.LittleEndian.PutUint32(b[4:], s.SlotCount)
	binary.LittleEndian.PutUint32(b[8:], s.SubmissionEntries)
	binary.LittleEndian.PutUint32(b[12:], s.CompletionEntries)
	binary.LittleEndian.PutUint32(b[16:], s.InputCount)
	binary.LittleEndian.PutUint32(b[20:], s.OutputCount)
	binary.LittleEndian.PutUint64(b[24:], s.SubmissionsOffset)
	binary.LittleEndian.PutUint64(b[32:], s.CompletionsOffset)
	binary.LittleEndian.PutUint64(b[40:], s.MessagesOffset)
	binary.LittleEndian.PutUint64(b[48:], s.ControlsOffset)
	binary.LittleEndian.PutUint64(b[56:], s.ProgressOffset)
}

// ProtocolCall: fixed tensors in, fixed tensors out.
const ProtocolCall = 1

// ProtocolStream: text in, text out as it is made.
const ProtocolStream = 2

// TensorBytes is the size of Tensor in memory.
const TensorBytes = 64

// TensorOffsetAt is the offset of tensor.offset.
const TensorOffsetAt = 0

// TensorRowBytesAt is the offset of tensor.row_bytes.
const TensorRowBytesAt = 8

// TensorDatatypeAt is the offset of tensor.datatype.
const TensorDatatypeAt = 12

// TensorRankAt is the offset of tensor.rank.
const TensorRankAt = 14

// TensorSymbolicAt is the offset of tensor.symbolic.
const TensorSymbolicAt = 16

// TensorDimsAt is the offset of tensor.dims.
const TensorDimsAt = 32

// Tensor is a private copy of the struct tensor of layout.md.
type Tensor struct {
	Offset   uint64
	RowBytes uint32
	Datatype uint16
	Rank     uint16
	Symbolic uint16
	Dims     [8]uint32
}

// DecodeTensor copies the fields out of b, which holds at least TensorBytes bytes.
func DecodeTensor(b []byte) Tensor {
	_ = b[TensorBytes-1]
	return Tensor{
		Offset:   binary.LittleEndian.Uint64(b[0:]),
		RowBytes: binary.LittleEndian.Uint32(b[8:]),
		Datatype: binary.LittleEndian.Uint16(b[12:]),
		Rank:     binary.LittleEndian.Uint16(b[14:]),
		Symbolic: binary.LittleEndian.Uint16(b[16:]),
		Dims:     [8]uint32{binary.LittleEndian.Uint32(b[32:]), binary.LittleEndian.Uint32(b[36:]), binary.LittleEndian.Uint32(b[40:]), binary.LittleEndian.Uint32(b[44:]), binary.LittleEndian.Uint32(b[48:]), binary.LittleEndian.Uint32(b[52:]), binary.LittleEndian.Uint32(b[56:]), binary.LittleEndian.Uint32(b[60:])},
	}
}

// Encode writes the fields to b, which holds at least TensorBytes bytes.
func (s Tensor) Encode(b []byte) {
	_ = b[TensorBytes-1]
	binary.LittleEndian.PutUint64(b[0:], s.Offset)
	binary.LittleEndian.PutUint32(b[8:], s.RowBytes)
	binary.LittleEndian.PutUint16(b[12:], s.Datatype)
	binary.LittleEndian.PutUint16(b[14:], s.Rank)
	binary.LittleEndian.PutUint16(b[16:], s.Symbolic)
	binary.LittleEndian.PutUint32(b[32:], s.Dims[0])
	binary.LittleEndian.PutUint32(b[36:], s.Dims[1])
	binary.LittleEndian.PutUint32(b[40:], s.Dims[2])
	binary.LittleEndian.PutUint32(b[44:], s.Dims[3])
	binary.LittleEndian.PutUint32(b[48:], s.Dims[4])
	binary.LittleEndian.PutUint32(b[52:], s.Dims[5])
	binary.LittleEndian.PutUint32(b[56:], s.Dims[6])
	binary.LittleEndian.PutUint32(b[60:], s.Dims[7])
}

// DatatypeBool: 0 or 1.
const DatatypeBool = 1

// DatatypeUint8: unsigned, 8 bits.
const DatatypeUint8 = 2

// DatatypeUint16: unsigned, 16 bits.
const DatatypeUint16 = 3

// DatatypeUint32: unsigned, 32 bits.
const DatatypeUint32 = 4

// DatatypeUint64: unsigned, 64 bits.
const DatatypeUint64 = 5

// DatatypeInt8: signed, 8 bits.
const DatatypeInt8 = 6

// DatatypeInt16: signed, 16 bits.
const DatatypeInt16 = 7

// DatatypeInt32: signed, 32 bits.
const DatatypeInt32 = 8

// DatatypeInt64: signed, 64 bits.
const DatatypeInt64 = 9

// DatatypeFP16: IEEE 754 binary16.
const DatatypeFP16 = 10

// DatatypeBF16: the upper half of an IEEE 754 binary32.
const DatatypeBF16 = 11

// DatatypeFP32: IEEE 754 binary32.
const DatatypeFP32 = 12

// DatatypeFP64: IEEE 754 binary64.
const DatatypeFP64 = 13

// DatatypeBytes: the bytes of each datatype, 0 for none.
var DatatypeBytes = [...]int{
	DatatypeBool:   1,
	DatatypeUint8:  1,
	DatatypeUint16: 2,
	DatatypeUint32: 4,
	DatatypeUint64: 8,
	DatatypeInt8:   1,
	DatatypeInt16:  2,
	DatatypeInt32:  4,
	DatatypeInt64:  8,
	DatatypeFP16:   2,
	DatatypeBF16:   2,
	DatatypeFP32:   4,
	DatatypeFP64:   8,
}

// ServerStateServing: submissions are taken.
const ServerStateServing = 0

// ServerStateDraining: the server is stopping: what was submitted is answered, new work is refused.
const ServerStateDraining = 1

// SubmissionBytes is the size of Submission in memory.
const SubmissionBytes = 64

// SubmissionTurnAt is the offset of submission.turn.
const SubmissionTurnAt = 0

// SubmissionRequestIDAt is the offset of submission.request_id.
const SubmissionRequestIDAt = 8

// SubmissionDeadlineAt is the offset of submission.deadline.
const SubmissionDeadlineAt = 16

// SubmissionSubmittedAt is the offset of submission.submitted.
const SubmissionSubmittedAt = 24

// SubmissionSlotAt is the offset of submission.slot.
const SubmissionSlotAt = 32

// SubmissionOpAt is the offset of submission.op.
const SubmissionOpAt = 36

// SubmissionFlagsAt is the offset of submission.flags.
const SubmissionFlagsAt = 38

// SubmissionExtentAt is the offset of submission.extent.
const SubmissionExtentAt = 40

// SubmissionSamplingStepsAt is the offset of submission.sampling_steps.
const SubmissionSamplingStepsAt = 44

// SubmissionTemperatureAt is the offset of submission.temperature.
const SubmissionTemperatureAt = 48

// SubmissionTopKAt is the offset of submission.top_k.
const SubmissionTopKAt = 52

// SubmissionSeedAt is the offset of submission.seed.
const SubmissionSeedAt = 56

// Submission is a private copy of the struct submission of layout.md.
type Submission struct {
	Turn          uint64
	RequestID     uint64
	Deadline      uint64
	Submitted     uint64
	Slot          uint32
	Op            uint16
	Flags         uint16
	Extent        uint32
	SamplingSteps uint32
	Temperature   float32
	TopK          uint32
	Seed          uint64
}

// DecodeSubmission copies the fields out of b, which holds at least SubmissionBytes bytes.
func DecodeSubmission(b []byte) Submission {
	_ = b[SubmissionBytes-1]
	return Submission{
		Turn:          binary.LittleEndian.Uint64(b[0:]),
		RequestID:     binary.LittleEndian.Uint64(b[8:]),
		Deadline:      binary.LittleEndian.Uint64(b[16:]),
		Submitted:     binary.LittleEndian.Uint64(b[24:]),
		Slot:          binary.LittleEndian.Uint32(b[32:]),
		Op:            binary.LittleEndian.Uint16(b[36:]),
		Flags:         binary.LittleEndian.Uint16(b[38:]),
		Extent:        binary.LittleEndian.Uint32(b[40:]),
		SamplingSteps: binary.LittleEndian.Uint32(b[44:]),
		Temperature:   math.Float32frombits(binary.LittleEndian.Uint32(b[48:])),
		TopK:          binary.LittleEndian.Uint32(b[52:]),
		Seed:          binary.LittleEndian.Uint64(b[56:]),
	}
}

// Encode writes the fields to b, which holds at least SubmissionBytes bytes.
func (s Submission) Encode(b []byte) {
	_ = b[SubmissionBytes-1]
	binary.LittleEndian.PutUint64(b[0:], s.Turn)
	binary.LittleEndian.PutUint64(b[8:], s.RequestID)
	binary.LittleEndian.PutUint64(b[16:], s.Deadline)
	binary.LittleEndian.PutUint64(b[24:], s.Submitted)
	binary.LittleEndian.PutUint32(b[32:], s.Slot)
	binary.LittleEndian.PutUint16(b[36:], s.Op)
	binary.LittleEndian.PutUint16(b[38:], s.Flags)
	binary.LittleEndian.PutUint32(b[40:], s.Extent)
	binary.LittleEndian.PutUint32(b[44:], s.SamplingSteps)
	binary.LittleEndian.PutUint32(b[48:], math.Float32bits(s.Temperature))
	binary.LittleEndian.PutUint32(b[52:], s.TopK)
	binary.LittleEndian.PutUint64(b[56:], s.Seed)
}

// OpEcho: complete with the inputs' checksum; a stream lane copies the prompt to the reply too.
const OpEcho = 1

// OpRun: run the model on the slot's inputs; in a stream lane generate text, see "Streaming".
const OpRun = 2

// SubmissionFlagWithTemperature: stream: the client says `temperature`; without it, what suits the model.
const SubmissionFlagWithTemperature = 1

// SubmissionFlagWithTopK: stream: the client says `top_k`; without it, what suits the model.
const SubmissionFlagWithTopK = 2

// SubmissionFlagWithSeed: stream: the client says `seed`; without it, a new one.
const SubmissionFlagWithSeed = 4

// CompletionBytes is the size of Completion in memory.
const CompletionBytes = 64

// CompletionTurnAt is the offset of completion.turn.
const CompletionTurnAt = 0

// CompletionRequestIDAt is the offset of completion.request_id.
const CompletionRequestIDAt = 8

// CompletionSlotAt is the offset of completion.slot.
const CompletionSlotAt = 16

// CompletionStatusAt is the offset of completion.status.
const CompletionStatusAt = 20

// CompletionFlagsAt is the offset of completion.flags.
const CompletionFlagsAt = 22

// CompletionExtentAt is the offset of completion.extent.
const CompletionExtentAt = 24

// CompletionMessageBytesAt is the offset of completion.message_bytes.
const CompletionMessageBytesAt = 28

// CompletionBatchAt is the offset of completion.batch.
const CompletionBatchAt = 32

// CompletionChecksumAt is the offset of completion.checksum.
const CompletionChecksumAt = 40

// CompletionQueueNSAt is the offset of completion.queue_ns.
const CompletionQueueNSAt = 48

// CompletionModelNSAt is the offset of completion.model_ns.
const CompletionModelNSAt = 56

// Completion is a private copy of the struct completion of layout.md.
type Completion struct {
	Turn         uint64
	RequestID    uint64
	Slot         uint32
	Status       uint16
	Flags        uint16
	Extent       uint32
	MessageBytes uint32
	Batch        uint32
	Checksum     uint64
	QueueNS      uint64
	ModelNS      uint64
}

// DecodeCompletion copies the fields out of b, which holds at least CompletionBytes bytes.
func DecodeCompletion(b []byte) Completion {
	_ = b[CompletionBytes-1]
	return Completion{
		Turn:         binary.LittleEndian.Uint64(b[0:]),
		RequestID:    binary.LittleEndian.Uint64(b[8:]),
		Slot:         binary.LittleEndian.Uint32(b[16:]),
		Status:       binary.LittleEndian.Uint16(b[20:]),
		Flags:        binary.LittleEndian.Uint16(b[22:]),
		Extent:       binary.LittleEndian.Uint32(b[24:]),
		MessageBytes: binary.LittleEndian.Uint32(b[28:]),
		Batch:        binary.LittleEndian.Uint32(b[32:]),
		Checksum:     binary.LittleEndian.Uint64(b[40:]),
		QueueNS:      binary.LittleEndian.Uint64(b[48:]),
		ModelNS:      binary.LittleEndian.Uint64(b[56:]),
	}
}

// Encode writes the fields to b, which holds at least CompletionBytes bytes.
func (s Completion) Encode(b []byte) {
	_ = b[CompletionBytes-1]
	binary.LittleEndian.PutUint64(b[0:], s.Turn)
	binary.LittleEndian.PutUint64(b[8:], s.RequestID)
	binary.LittleEndian.PutUint32(b[16:], s.Slot)
	binary.LittleEndian.PutUint16(b[20:], s.Status)
	binary.LittleEndian.PutUint16(b[22:], s.Flags)
	binary.LittleEndian.PutUint32(b[24:], s.Extent)
	binary.LittleEndian.PutUint32(b[28:], s.MessageBytes)
	binary.LittleEndian.PutUint32(b[32:], s.Batch)
	binary.LittleEndian.PutUint64(b[40:], s.Checksum)
	binary.LittleEndian.PutUint64(b[48:], s.QueueNS)
	binary.LittleEndian.PutUint64(b[56:], s.ModelNS)
}

// StatusOK: done; each output's row is valid.
const StatusOK = 0

// StatusDeadlineExceeded: the deadline had passed when the server took the submission; nothing was run.
const StatusDeadlineExceeded = 1

// StatusDraining: the server is stopping; nothing was run, or a prompt's text ends here.
const StatusDraining = 2

// StatusModelError: the model raised, or gave what it had not declared; the message says why.
const StatusModelError = 3

// StatusMore: stream: not the last completion; there is more text, see "Streaming".
const StatusMore = 4

// StatusCancelled: stream: the client asked for it; the text so far stands.
const StatusCancelled = 5

// StatusInvalid: stream: the text is no UTF-8, or empty, or too long for the model, or a parameter is out of range; the message says which.
const StatusInvalid = 6

// StatusUnavailable: stream: the endpoint behind the generator does not answer; the message says more, as for those below.
const StatusUnavailable = 7

// StatusUnauthorized: stream: the endpoint does not accept the server's key.
const StatusUnauthorized = 8

// StatusRateLimited: stream: the endpoint refuses more requests for now.
const StatusRateLimited = 9

// StatusTimedOut: stream: the endpoint took too long.
const StatusTimedOut = 10

// StatusBroken: stream: the endpoint broke off; the text so far stands.
const StatusBroken = 11

// StatusHTTPCode: the HTTP code of each status, 0 for none.
var StatusHTTPCode = [...]int{
	StatusOK:               200,
	StatusDeadlineExceeded: 504,
	StatusDraining:         503,
	StatusModelError:       500,
	StatusMore:             0,
	StatusCancelled:        499,
	StatusInvalid:          400,
	StatusUnavailable:      503,
	StatusUnauthorized:     502,
	StatusRateLimited:      429,
	StatusTimedOut:         504,
	StatusBroken:           502,
}

// StatusGoError: the Go error of each status, nil for none.
var StatusGoError = [...]error{
	StatusOK:               nil,
	StatusDeadlineExceeded: fault.DeadlineExceeded,
	StatusDraining:         fault.Draining,
	StatusModelError:       fault.Model,
	StatusMore:             nil,
	StatusCancelled:        nil,
	StatusInvalid:          fault.InvalidPrompt,
	StatusUnavailable:      fault.Unavailable,
	StatusUnauthorized:     fault.Unauthorized,
	StatusRateLimited:      fault.RateLimited,
	StatusTimedOut:         fault.TimedOut,
	StatusBroken:           fault.Broken,
}

// StatusName: each status in words.
var StatusName = [...]string{
	StatusOK:               "ok",
	StatusDeadlineExceeded: "deadline exceeded",
	StatusDraining:         "draining",
	StatusModelError:       "model error",
	StatusMore:             "more",
	StatusCancelled:        "cancelled",
	StatusInvalid:          "invalid",
	StatusUnavailable:      "unavailable",
	StatusUnauthorized:     "unauthorized",
	StatusRateLimited:      "rate limited",
	StatusTimedOut:         "timed out",
	StatusBroken:           "broken",
}

// CompletionFlagTruncated: stream: the reply was full; the text ends before the generator did, at a character's boundary.
const CompletionFlagTruncated = 1

// ControlBytes is the size of Control in memory.
const ControlBytes = 128

// ControlAcknowledgedAt is the offset of control.acknowledged.
const ControlAcknowledgedAt = 0

// ControlCancelAt is the offset of control.cancel.
const ControlCancelAt = 4

// Control is a private copy of the struct control of layout.md.
type Control struct {
	Acknowledged uint32
	Cancel       uint32
}

// DecodeControl copies the fields out of b, which holds at least ControlBytes bytes.
func DecodeControl(b []byte) Control {
	_ = b[ControlBytes-1]
	return Control{
		Acknowledged: binary.LittleEndian.Uint32(b[0:]),
		Cancel:       binary.LittleEndian.Uint32(b[4:]),
	}
}

// Encode writes the fields to b, which holds at least ControlBytes bytes.
func (s Control) Encode(b []byte) {
	_ = b[ControlBytes-1]
	binary.LittleEndian.PutUint32(b[0:], s.Acknowledged)
	binary.LittleEndian.PutUint32(b[4:], s.Cancel)
}

// ProgressBytes is the size of Progress in memory.
const ProgressBytes = 128

// ProgressExtentAt is the offset of progress.extent.
const ProgressExtentAt = 0

// Progress is a private copy of the struct progress of layout.md.
type Progress struct {
	Extent uint32
}

// DecodeProgress copies the fields out of b, which holds at least ProgressBytes bytes.
func DecodeProgress(b []byte) Progress {
	_ = b[ProgressBytes-1]
	return Progress{
		Extent: binary.LittleEndian.Uint32(b[0:]),
	}
}

// Encode writes the fields to b, which holds at least ProgressBytes bytes.
func (s Progress) Encode(b []byte) {
	_ = b[ProgressBytes-1]
	binary.LittleEndian.PutUint32(b[0:], s.Extent)
}

// FrameBytes is the size of Frame in memory.
const FrameBytes = 16

// FrameMagicAt is the offset of frame.magic.
const FrameMagicAt = 0

// FrameKindAt is the offset of frame.kind.
const FrameKindAt = 4

// FrameBodyBytesAt is the offset of frame.body_bytes.
const FrameBodyBytesAt = 8

// Frame is a private copy of the struct frame of layout.md.
type Frame struct {
	Magic     uint32
	Kind      uint16
	BodyBytes uint32
}

// DecodeFrame copies the fields out of b, which holds at least FrameBytes bytes.
func DecodeFrame(b []byte) Frame {
	_ = b[FrameBytes-1]
	return Frame{
		Magic:     binary.LittleEndian.Uint32(b[0:]),
		Kind:      binary.LittleEndian.Uint16(b[4:]),
		BodyBytes: binary.LittleEndian.Uint32(b[8:]),
	}
}

// Encode writes the fields to b, which holds at least FrameBytes bytes.
func (s Frame) Encode(b []byte) {
	_ = b[FrameBytes-1]
	binary.LittleEndian.PutUint32(b[0:], s.Magic)
	binary.LittleEndian.PutUint16(b[4:], s.Kind)
	binary.LittleEndian.PutUint32(b[8:], s.BodyBytes)
}

// FrameKindHello: client to server, first.
const FrameKindHello = 1

// FrameKindWelcome: server to client, with one descriptor.
const FrameKindWelcome = 2

// FrameKindRefusal: server to client instead of a welcome.
const FrameKindRefusal = 3

// FrameKindGoodbye: server to client, last.
const FrameKindGoodbye = 4

// FrameKindQuestion: client to server, first, instead of a hello.
const FrameKindQuestion = 5

// FrameKindAnswer: server to client, to a question; then it closes the socket.
const FrameKindAnswer = 6

// HelloBytes is the size of Hello in memory.
const HelloBytes = 40

// HelloLayoutMajorAt is the offset of hello.layout_major.
const HelloLayoutMajorAt = 0

// HelloLayoutMinorAt is the offset of hello.layout_minor.
const HelloLayoutMinorAt = 2

// HelloProtocolAt is the offset of hello.protocol.
const HelloProtocolAt = 4

// HelloFeaturesKnownAt is the offset of hello.features_known.
const HelloFeaturesKnownAt = 8

// HelloFeaturesNeededAt is the offset of hello.features_needed.
const HelloFeaturesNeededAt = 16

// HelloSlotCountAt is the offset of hello.slot_count.
const HelloSlotCountAt = 24

// HelloInputExtentAt is the offset of hello.input_extent.
const HelloInputExtentAt = 28

// HelloOutputExtentAt is the offset of hello.output_extent.
const HelloOutputExtentAt = 32

// HelloModelBytesAt is the offset of hello.model_bytes.
const HelloModelBytesAt = 36

// Hello is a private copy of the struct hello of layout.md.
type Hello struct {
	LayoutMajor    uint16
	LayoutMinor    uint16
	Protocol       uint32
	FeaturesKnown  uint64
	FeaturesNeeded uint64
	SlotCount      uint32
	InputExtent    uint32
	OutputExtent   uint32
	ModelBytes     uint32
}

// DecodeHello copies the fields out of b, which holds at least HelloBytes bytes.
func DecodeHello(b []byte) Hello {
	_ = b[HelloBytes-1]
	return Hello{
		LayoutMajor:    binary.LittleEndian.Uint16(b[0:]),
		LayoutMinor:    binary.LittleEndian.Uint16(b[2:]),
		Protocol:       binary.LittleEndian.Uint32(b[4:]),
		FeaturesKnown:  binary.LittleEndian.Uint64(b[8:]),
		FeaturesNeeded: binary.LittleEndian.Uint64(b[16:]),
		SlotCount:      binary.LittleEndian.Uint32(b[24:]),
		InputExtent:    binary.LittleEndian.Uint32(b[28:]),
		OutputExtent:   binary.LittleEndian.Uint32(b[32:]),
		ModelBytes:     binary.LittleEndian.Uint32(b[36:]),
	}
}

// Encode writes the fields to b, which holds at least HelloBytes bytes.
func (s Hello) Encode(b []byte) {
	_ = b[HelloBytes-1]
	binary.LittleEndian.PutUint16(b[0:], s.LayoutMajor)
	binary.LittleEndian.PutUint16(b[2:], s.LayoutMinor)
	binary.LittleEndian.PutUint32(b[4:], s.Protocol)
	binary.LittleEndian.PutUint64(b[8:], s.FeaturesKnown)
	binary.LittleEndian.PutUint64(b[16:], s.FeaturesNeeded)
	binary.LittleEndian.PutUint32(b[24:], s.SlotCount)
	binary.LittleEndian.PutUint32(b[28:], s.InputExtent)
	binary.LittleEndian.PutUint32(b[32:], s.OutputExtent)
	binary.LittleEndian.PutUint32(b[36:], s.ModelBytes)
}

// WelcomeBytes is the size of Welcome in memory.
const WelcomeBytes = 40

// WelcomeLayoutMajorAt is the offset of welcome.layout_major.
const WelcomeLayoutMajorAt = 0

// WelcomeLayoutMinorAt is the offset of welcome.layout_minor.
const WelcomeLayoutMinorAt = 2

// WelcomeMetadataBytesAt is the offset of welcome.metadata_bytes.
const WelcomeMetadataBytesAt = 4

// WelcomeSegmentBytesAt is the offset of welcome.segment_bytes.
const WelcomeSegmentBytesAt = 8

// WelcomeEpochAt is the offset of welcome.epoch.
const WelcomeEpochAt = 16

// WelcomeFeaturesAt is the offset of welcome.features.
const WelcomeFeaturesAt = 24

// WelcomeClockAt is the offset of welcome.clock.
const WelcomeClockAt = 32

// Welcome is a private copy of the struct welcome of layout.md.
type Welcome struct {
	LayoutMajor   uint16
	LayoutMinor   uint16
	MetadataBytes uint32
	SegmentBytes  uint64
	Epoch         uint64
	Features      uint64
	Clock         uint64
}

// DecodeWelcome copies the fields out of b, which holds at least WelcomeBytes bytes.
func DecodeWelcome(b []byte) Welcome {
	_ = b[WelcomeBytes-1]
	return Welcome{
		LayoutMajor:   binary.LittleEndian.Uint16(b[0:]),
		LayoutMinor:   binary.LittleEndian.Uint16(b[2:]),
		MetadataBytes: binary.LittleEndian.Uint32(b[4:]),
		SegmentBytes:  binary.LittleEndian.Uint64(b[8:]),
		Epoch:         binary.LittleEndian.Uint64(b[16:]),
		Features:      binary.LittleEndian.Uint64(b[24:]),
		Clock:         binary.LittleEndian.Uint64(b[32:]),
	}
}

// Encode writes the fields to b, which holds at least WelcomeBytes bytes.
func (s Welcome) Encode(b []byte) {
	_ = b[WelcomeBytes-1]
	binary.LittleEndian.PutUint16(b[0:], s.LayoutMajor)
	binary.LittleEndian.PutUint16(b[2:], s.LayoutMinor)
	binary.LittleEndian.PutUint32(b[4:], s.MetadataBytes)
	binary.LittleEndian.PutUint64(b[8:], s.SegmentBytes)
	binary.LittleEndian.PutUint64(b[16:], s.Epoch)
	binary.LittleEndian.PutUint64(b[24:], s.Features)
	binary.LittleEndian.PutUint64(b[32:], s.Clock)
}

// ReasonBodyBytes is the size of ReasonBody in memory.
const ReasonBodyBytes = 8

// ReasonBodyReasonAt is the offset of reason_body.reason.
const ReasonBodyReasonAt = 0

// ReasonBodyMessageBytesAt is the offset of reason_body.message_bytes.
const ReasonBodyMessageBytesAt = 4

// ReasonBody is a private copy of the struct reason_body of layout.md.
type ReasonBody struct {
	Reason       uint16
	MessageBytes uint32
}

// DecodeReasonBody copies the fields out of b, which holds at least ReasonBodyBytes bytes.
func DecodeReasonBody(b []byte) ReasonBody {
	_ = b[ReasonBodyBytes-1]
	return ReasonBody{
		Reason:       binary.LittleEndian.Uint16(b[0:]),
		MessageBytes: binary.LittleEndian.Uint32(b[4:]),
	}
}

// Encode writes the fields to b, which holds at least ReasonBodyBytes bytes.
func (s ReasonBody) Encode(b []byte) {
	_ = b[ReasonBodyBytes-1]
	binary.LittleEndian.PutUint16(b[0:], s.Reason)
	binary.LittleEndian.PutUint32(b[4:], s.MessageBytes)
}

// ReasonVersion: the layout majors differ.
const ReasonVersion = 1

// ReasonFeatures: one side needs a feature that the other lacks.
const ReasonFeatures = 2

// ReasonMalformed: the hello breaks a rule of this page.
const ReasonMalformed = 3

// ReasonNoSuchModel: the server has no model of that name, or none for that protocol; the message lists those that it has.
const ReasonNoSuchModel = 4

// ReasonNoMemory: the segment could not be allotted, /dev/shm is too small.
const ReasonNoMemory = 5

// ReasonTooManySessions: the server's limit is reached.
const ReasonTooManySessions = 6

// ReasonForbidden: the peer's user may not connect.
const ReasonForbidden = 7

// ReasonDraining: the server is stopping.
const ReasonDraining = 8

// ReasonProtocol: the client broke the protocol; the message says how.
const ReasonProtocol = 9

// ReasonInternal: the server failed; its log says why.
const ReasonInternal = 10

// ReasonMoved: another process serves the model from now on: dial again at once. What was taken has been answered; what has no answer was not taken, and may be submitted there.
const ReasonMoved = 11

// ReasonStarting: the model's process is being started; dial again soon.
const ReasonStarting = 12

// ReasonHTTPCode: the HTTP code of each reason, 0 for none.
var ReasonHTTPCode = [...]int{
	ReasonVersion:         500,
	ReasonFeatures:        500,
	ReasonMalformed:       400,
	ReasonNoSuchModel:     404,
	ReasonNoMemory:        503,
	ReasonTooManySessions: 503,
	ReasonForbidden:       500,
	ReasonDraining:        503,
	ReasonProtocol:        500,
	ReasonInternal:        500,
	ReasonMoved:           503,
	ReasonStarting:        503,
}

// ReasonGoError: the Go error of each reason, nil for none.
var ReasonGoError = [...]error{
	ReasonVersion:         fault.Protocol,
	ReasonFeatures:        fault.Protocol,
	ReasonMalformed:       nil,
	ReasonNoSuchModel:     fault.NoSuchModel,
	ReasonNoMemory:        nil,
	ReasonTooManySessions: nil,
	ReasonForbidden:       nil,
	ReasonDraining:        fault.Draining,
	ReasonProtocol:        fault.Protocol,
	ReasonInternal:        nil,
	ReasonMoved:           fault.ServerGone,
	ReasonStarting:        fault.ServerGone,
}

// ReasonName: each reason in words.
var ReasonName = [...]string{
	ReasonVersion:         "version",
	ReasonFeatures:        "features",
	ReasonMalformed:       "malformed",
	ReasonNoSuchModel:     "no such model",
	ReasonNoMemory:        "no memory",
	ReasonTooManySessions: "too many sessions",
	ReasonForbidden:       "forbidden",
	ReasonDraining:        "draining",
	ReasonProtocol:        "protocol",
	ReasonInternal:        "internal",
	ReasonMoved:           "moved",
	ReasonStarting:        "starting",
}
