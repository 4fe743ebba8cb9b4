"""Generated from layout.md by shm_server/layout/generate.py; do not edit."""

from enum import IntEnum

LAYOUT_MAJOR = 1
LAYOUT_MINOR = 1
SEGMENT_MAGIC = 0x31524F534E455453
FRAME_MAGIC = 826430547
BELL = 1
PAGE_BYTES = 4096
LINE_BYTES = 128
ENTRY_BYTES = 64
IMAGE_BYTES = 3072
MESSAGE_BYTES = 256
MAX_TEXT_BYTES = 16777216
MAX_LANES = 8
MAX_SLOTS = 65536
MAX_SEGMENT_BYTES = 1073741824
MAX_FRAME_BODY = 65536


class LaneKind(IntEnum):
    IMAGE = 1
    PROMPT = 2


class ServerState(IntEnum):
    SERVING = 0
    DRAINING = 1


class Op(IntEnum):
    ECHO = 1
    CLASSIFY = 2
    PROMPT = 3


class SubmissionFlag(IntEnum):
    WANT_SCORES = 1
    WITH_TEMPERATURE = 2
    WITH_TOP_K = 4
    WITH_SEED = 8


class Status(IntEnum):
    OK = 0
    DEADLINE_EXCEEDED = 1
    DRAINING = 2
    MODEL_ERROR = 3
    MORE = 4
    CANCELLED = 5
    INVALID = 6
    UNAVAILABLE = 7
    UNAUTHORIZED = 8
    RATE_LIMITED = 9
    TIMED_OUT = 10
    BROKEN = 11


class CompletionFlag(IntEnum):
    TRUNCATED = 1


class FrameKind(IntEnum):
    HELLO = 1
    WELCOME = 2
    REFUSAL = 3
    GOODBYE = 4


class Reason(IntEnum):
    VERSION = 1
    FEATURES = 2
    MALFORMED = 3
    LANE_UNAVAILABLE = 4
    NO_MEMORY = 5
    TOO_MANY_SESSIONS = 6
    FORBIDDEN = 7
    DRAINING = 8
    PROTOCOL = 9
    INTERNAL = 10


# Structs as numpy.dtype takes them: names, formats, offsets, itemsize.
STRUCTS = {
    "header": {
        "names": [
            "magic",
            "layout_major",
            "layout_minor",
            "header_bytes",
            "segment_bytes",
            "epoch",
            "features_required",
            "features_optional",
            "lane_count",
            "server_parked",
            "client_parked",
            "server_state",
        ],
        "formats": [
            "<u8",
            "<u2",
            "<u2",
            "<u4",
            "<u8",
            "<u8",
            "<u8",
            "<u8",
            "<u4",
            "<u4",
            "<u4",
            "<u4",
        ],
        "offsets": [
            0,
            8,
            10,
            12,
            16,
            24,
            32,
            40,
            48,
            2048,
            2176,
            2304,
        ],
        "itemsize": 4096,
    },
    "lane": {
        "names": [
            "kind",
            "slot_count",
            "slot_bytes",
            "reply_bytes",
            "submission_entries",
            "completion_entries",
            "submissions_offset",
            "completions_offset",
            "slots_offset",
            "replies_offset",
            "controls_offset",
            "progress_offset",
        ],
        "formats": [
            "<u4",
            "<u4",
            "<u4",
            "<u4",
            "<u4",
            "<u4",
            "<u8",
            "<u8",
            "<u8",
            "<u8",
            "<u8",
            "<u8",
        ],
        "offsets": [
            0,
            4,
            8,
            12,
            16,
            20,
            24,
            32,
            40,
            48,
            56,
            64,
        ],
        "itemsize": 128,
    },
    "submission": {
        "names": [
            "turn",
            "request_id",
            "deadline",
            "slot",
            "op",
            "flags",
            "length",
            "sampling_steps",
            "submitted",
            "temperature",
            "top_k",
            "seed",
        ],
        "formats": [
            "<u8",
            "<u8",
            "<u8",
            "<u4",
            "<u2",
            "<u2",
            "<u4",
            "<u4",
            "<u8",
            "<f4",
            "<u4",
            "<u8",
        ],
        "offsets": [
            0,
            8,
            16,
            24,
            28,
            30,
            32,
            36,
            40,
            48,
            52,
            56,
        ],
        "itemsize": 64,
    },
    "completion": {
        "names": [
            "turn",
            "request_id",
            "slot",
            "status",
            "flags",
            "length",
            "label",
            "score",
            "batch",
            "checksum",
            "queue_ns",
            "model_ns",
        ],
        "formats": [
            "<u8",
            "<u8",
            "<u4",
            "<u2",
            "<u2",
            "<u4",
            "<u4",
            "<f4",
            "<u4",
            "<u8",
            "<u8",
            "<u8",
        ],
        "offsets": [
            0,
            8,
            16,
            20,
            22,
            24,
            28,
            32,
            36,
            40,
            48,
            56,
        ],
        "itemsize": 64,
    },
    "control": {
        "names": [
            "acknowledged",
            "cancel",
        ],
        "formats": [
            "<u4",
            "<u4",
        ],
        "offsets": [
            0,
            4,
        ],
        "itemsize": 128,
    },
    "progress": {
        "names": [
            "length",
        ],
        "formats": [
            "<u4",
        ],
        "offsets": [
            0,
        ],
        "itemsize": 128,
    },
    "frame": {
        "names": [
            "magic",
            "kind",
            "body_bytes",
        ],
        "formats": [
            "<u4",
            "<u2",
            "<u4",
        ],
        "offsets": [
            0,
            4,
            8,
        ],
        "itemsize": 16,
    },
    "hello": {
        "names": [
            "layout_major",
            "layout_minor",
            "lane_count",
            "features_known",
            "features_needed",
        ],
        "formats": [
            "<u2",
            "<u2",
            "<u4",
            "<u8",
            "<u8",
        ],
        "offsets": [
            0,
            2,
            4,
            8,
            16,
        ],
        "itemsize": 32,
    },
    "lane_request": {
        "names": [
            "kind",
            "slot_count",
            "slot_bytes",
            "reply_bytes",
        ],
        "formats": [
            "<u4",
            "<u4",
            "<u4",
            "<u4",
        ],
        "offsets": [
            0,
            4,
            8,
            12,
        ],
        "itemsize": 16,
    },
    "welcome": {
        "names": [
            "layout_major",
            "layout_minor",
            "metadata_bytes",
            "segment_bytes",
            "epoch",
            "features",
            "clock",
        ],
        "formats": [
            "<u2",
            "<u2",
            "<u4",
            "<u8",
            "<u8",
            "<u8",
            "<u8",
        ],
        "offsets": [
            0,
            2,
            4,
            8,
            16,
            24,
            32,
        ],
        "itemsize": 40,
    },
    "reason_body": {
        "names": [
            "reason",
            "message_bytes",
        ],
        "formats": [
            "<u2",
            "<u4",
        ],
        "offsets": [
            0,
            4,
        ],
        "itemsize": 8,
    },
}

LANES_OFFSET = 128
