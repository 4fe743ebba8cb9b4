"""Generated from layout.md by tools/generate_layout.py; do not edit."""

from enum import IntEnum

LAYOUT_MAJOR = 2
LAYOUT_MINOR = 0
SEGMENT_MAGIC = 0x31524F534E455453
FRAME_MAGIC = 826430547
BELL = 1
PAGE_BYTES = 4096
LINE_BYTES = 128
ENTRY_BYTES = 64
ROW_ALIGNMENT = 64
MESSAGE_BYTES = 256
MAX_MODEL_NAME_BYTES = 255
MAX_TENSORS = 24
MAX_RANK = 8
MAX_TEXT_BYTES = 16777216
MAX_SLOTS = 65536
MAX_SEGMENT_BYTES = 1073741824
MAX_FRAME_BODY = 65536
MAX_QUESTION_BYTES = 1024


class Protocol(IntEnum):
    CALL = 1
    STREAM = 2


class Datatype(IntEnum):
    BOOL = 1
    UINT8 = 2
    UINT16 = 3
    UINT32 = 4
    UINT64 = 5
    INT8 = 6
    INT16 = 7
    INT32 = 8
    INT64 = 9
    FP16 = 10
    BF16 = 11
    FP32 = 12
    FP64 = 13


DATATYPE_BYTES = {
    Datatype.BOOL: 1,
    Datatype.UINT8: 1,
    Datatype.UINT16: 2,
    Datatype.UINT32: 4,
    Datatype.UINT64: 8,
    Datatype.INT8: 1,
    Datatype.INT16: 2,
    Datatype.INT32: 4,
    Datatype.INT64: 8,
    Datatype.FP16: 2,
    Datatype.BF16: 2,
    Datatype.FP32: 4,
    Datatype.FP64: 8,
}


class ServerState(IntEnum):
    SERVING = 0
    DRAINING = 1


class Op(IntEnum):
    ECHO = 1
    RUN = 2


class SubmissionFlag(IntEnum):
    WITH_TEMPERATURE = 1
    WITH_TOP_K = 2
    WITH_SEED = 4


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


STATUS_HTTP_CODE = {
    Status.OK: 200,
    Status.DEADLINE_EXCEEDED: 504,
    Status.DRAINING: 503,
    Status.MODEL_ERROR: 500,
    Status.CANCELLED: 499,
    Status.INVALID: 400,
    Status.UNAVAILABLE: 503,
    Status.UNAUTHORIZED: 502,
    Status.RATE_LIMITED: 429,
    Status.TIMED_OUT: 504,
    Status.BROKEN: 502,
}


STATUS_GRPC_CODE = {
    Status.OK: "OK",
    Status.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    Status.DRAINING: "UNAVAILABLE",
    Status.MODEL_ERROR: "INTERNAL",
    Status.CANCELLED: "CANCELLED",
    Status.INVALID: "INVALID_ARGUMENT",
    Status.UNAVAILABLE: "UNAVAILABLE",
    Status.UNAUTHORIZED: "FAILED_PRECONDITION",
    Status.RATE_LIMITED: "RESOURCE_EXHAUSTED",
    Status.TIMED_OUT: "DEADLINE_EXCEEDED",
    Status.BROKEN: "ABORTED",
}


STATUS_PYTHON_ERROR = {
    Status.DEADLINE_EXCEEDED: "DeadlineExceeded",
    Status.DRAINING: "Draining",
    Status.MODEL_ERROR: "ModelError",
    Status.INVALID: "InvalidRequest",
    Status.UNAVAILABLE: "Unavailable",
    Status.UNAUTHORIZED: "Unauthorized",
    Status.RATE_LIMITED: "RateLimited",
    Status.TIMED_OUT: "TimedOut",
    Status.BROKEN: "Broken",
}


class CompletionFlag(IntEnum):
    TRUNCATED = 1


class FrameKind(IntEnum):
    HELLO = 1
    WELCOME = 2
    REFUSAL = 3
    GOODBYE = 4
    QUESTION = 5
    ANSWER = 6


class Reason(IntEnum):
    VERSION = 1
    FEATURES = 2
    MALFORMED = 3
    NO_SUCH_MODEL = 4
    NO_MEMORY = 5
    TOO_MANY_SESSIONS = 6
    FORBIDDEN = 7
    DRAINING = 8
    PROTOCOL = 9
    INTERNAL = 10
    MOVED = 11
    STARTING = 12


REASON_HTTP_CODE = {
    Reason.VERSION: 500,
    Reason.FEATURES: 500,
    Reason.MALFORMED: 400,
    Reason.NO_SUCH_MODEL: 404,
    Reason.NO_MEMORY: 503,
    Reason.TOO_MANY_SESSIONS: 503,
    Reason.FORBIDDEN: 500,
    Reason.DRAINING: 503,
    Reason.PROTOCOL: 500,
    Reason.INTERNAL: 500,
    Reason.MOVED: 503,
    Reason.STARTING: 503,
}


REASON_GRPC_CODE = {
    Reason.VERSION: "INTERNAL",
    Reason.FEATURES: "INTERNAL",
    Reason.MALFORMED: "INVALID_ARGUMENT",
    Reason.NO_SUCH_MODEL: "NOT_FOUND",
    Reason.NO_MEMORY: "RESOURCE_EXHAUSTED",
    Reason.TOO_MANY_SESSIONS: "RESOURCE_EXHAUSTED",
    Reason.FORBIDDEN: "INTERNAL",
    Reason.DRAINING: "UNAVAILABLE",
    Reason.PROTOCOL: "INTERNAL",
    Reason.INTERNAL: "INTERNAL",
    Reason.MOVED: "UNAVAILABLE",
    Reason.STARTING: "UNAVAILABLE",
}


REASON_PYTHON_ERROR = {
    Reason.VERSION: "ProtocolError",
    Reason.FEATURES: "ProtocolError",
    Reason.NO_SUCH_MODEL: "NoSuchModel",
    Reason.DRAINING: "Draining",
    Reason.PROTOCOL: "ProtocolError",
    Reason.MOVED: "ServerGone",
    Reason.STARTING: "ServerGone",
}


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
            2048,
            2176,
            2304,
        ],
        "itemsize": 4096,
    },
    "lane": {
        "names": [
            "protocol",
            "slot_count",
            "submission_entries",
            "completion_entries",
            "input_count",
            "output_count",
            "submissions_offset",
            "completions_offset",
            "messages_offset",
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
        ],
        "itemsize": 128,
    },
    "tensor": {
        "names": [
            "offset",
            "row_bytes",
            "datatype",
            "rank",
            "symbolic",
            "dims",
        ],
        "formats": [
            "<u8",
            "<u4",
            "<u2",
            "<u2",
            "<u2",
            "(8,)<u4",
        ],
        "offsets": [
            0,
            8,
            12,
            14,
            16,
            32,
        ],
        "itemsize": 64,
    },
    "submission": {
        "names": [
            "turn",
            "request_id",
            "deadline",
            "submitted",
            "slot",
            "op",
            "flags",
            "extent",
            "sampling_steps",
            "temperature",
            "top_k",
            "seed",
        ],
        "formats": [
            "<u8",
            "<u8",
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
        ],
        "offsets": [
            0,
            8,
            16,
            24,
            32,
            36,
            38,
            40,
            44,
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
            "extent",
            "message_bytes",
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
            "extent",
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
            "protocol",
            "features_known",
            "features_needed",
            "slot_count",
            "input_extent",
            "output_extent",
            "model_bytes",
        ],
        "formats": [
            "<u2",
            "<u2",
            "<u4",
            "<u8",
            "<u8",
            "<u4",
            "<u4",
            "<u4",
            "<u4",
        ],
        "offsets": [
            0,
            2,
            4,
            8,
            16,
            24,
            28,
            32,
            36,
        ],
        "itemsize": 40,
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

LANE_OFFSET = 128
TENSORS_OFFSET = 256
