/* Generated from layout.md by tools/generate_layout.py; do not edit. */
#ifndef SHM_LAYOUT_H
#define SHM_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#define SHM_LAYOUT_MAJOR 2u
#define SHM_LAYOUT_MINOR 0u
#define SHM_SEGMENT_MAGIC 3553990275162788947ull
#define SHM_FRAME_MAGIC 826430547u
#define SHM_BELL 1u
#define SHM_PAGE_BYTES 4096u
#define SHM_LINE_BYTES 128u
#define SHM_ENTRY_BYTES 64u
#define SHM_ROW_ALIGNMENT 64u
#define SHM_MESSAGE_BYTES 256u
#define SHM_MAX_MODEL_NAME_BYTES 255u
#define SHM_MAX_TENSORS 24u
#define SHM_MAX_RANK 8u
#define SHM_MAX_TEXT_BYTES 16777216u
#define SHM_MAX_SLOTS 65536u
#define SHM_MAX_SEGMENT_BYTES 1073741824u
#define SHM_MAX_FRAME_BODY 65536u
#define SHM_MAX_QUESTION_BYTES 1024u

#define SHM_HEADER_MAGIC 0u
#define SHM_HEADER_LAYOUT_MAJOR 8u
#define SHM_HEADER_LAYOUT_MINOR 10u
#define SHM_HEADER_HEADER_BYTES 12u
#define SHM_HEADER_SEGMENT_BYTES 16u
#define SHM_HEADER_EPOCH 24u
#define SHM_HEADER_FEATURES_REQUIRED 32u
#define SHM_HEADER_FEATURES_OPTIONAL 40u
#define SHM_HEADER_LANE 128u
#define SHM_HEADER_TENSORS 256u
#define SHM_HEADER_SERVER_PARKED 2048u
#define SHM_HEADER_CLIENT_PARKED 2176u
#define SHM_HEADER_SERVER_STATE 2304u

struct shm_lane {
    uint32_t protocol;
    uint32_t slot_count;
    uint32_t submission_entries;
    uint32_t completion_entries;
    uint32_t input_count;
    uint32_t output_count;
    uint64_t submissions_offset;
    uint64_t completions_offset;
    uint64_t messages_offset;
    uint64_t controls_offset;
    uint64_t progress_offset;
    uint8_t reserved_64[64];
};
_Static_assert(sizeof(struct shm_lane) == 128, "lane");
_Static_assert(offsetof(struct shm_lane, protocol) == 0, "protocol");
_Static_assert(offsetof(struct shm_lane, slot_count) == 4, "slot_count");
_Static_assert(offsetof(struct shm_lane, submission_entries) == 8, "submission_entries");
_Static_assert(offsetof(struct shm_lane, completion_entries) == 12, "completion_entries");
_Static_assert(offsetof(struct shm_lane, input_count) == 16, "input_count");
_Static_assert(offsetof(struct shm_lane, output_count) == 20, "output_count");
_Static_assert(offsetof(struct shm_lane, submissions_offset) == 24, "submissions_offset");
_Static_assert(offsetof(struct shm_lane, completions_offset) == 32, "completions_offset");
_Static_assert(offsetof(struct shm_lane, messages_offset) == 40, "messages_offset");
_Static_assert(offsetof(struct shm_lane, controls_offset) == 48, "controls_offset");
_Static_assert(offsetof(struct shm_lane, progress_offset) == 56, "progress_offset");

#define SHM_PROTOCOL_CALL 1u
#define SHM_PROTOCOL_STREAM 2u

struct shm_tensor {
    uint64_t offset;
    uint32_t row_bytes;
    uint16_t datatype;
    uint16_t rank;
    uint16_t symbolic;
    uint8_t reserved_18[14];
    uint32_t dims[8];
};
_Static_assert(sizeof(struct shm_tensor) == 64, "tensor");
_Static_assert(offsetof(struct shm_tensor, offset) == 0, "offset");
_Static_assert(offsetof(struct shm_tensor, row_bytes) == 8, "row_bytes");
_Static_assert(offsetof(struct shm_tensor, datatype) == 12, "datatype");
_Static_assert(offsetof(struct shm_tensor, rank) == 14, "rank");
_Static_assert(offsetof(struct shm_tensor, symbolic) == 16, "symbolic");
_Static_assert(offsetof(struct shm_tensor, dims) == 32, "dims");

#define SHM_DATATYPE_BOOL 1u
#define SHM_DATATYPE_UINT8 2u
#define SHM_DATATYPE_UINT16 3u
#define SHM_DATATYPE_UINT32 4u
#define SHM_DATATYPE_UINT64 5u
#define SHM_DATATYPE_INT8 6u
#define SHM_DATATYPE_INT16 7u
#define SHM_DATATYPE_INT32 8u
#define SHM_DATATYPE_INT64 9u
#define SHM_DATATYPE_FP16 10u
#define SHM_DATATYPE_BF16 11u
#define SHM_DATATYPE_FP32 12u
#define SHM_DATATYPE_FP64 13u
static const uint8_t shm_datatype_bytes[] = {[1] = 1, [2] = 1, [3] = 2, [4] = 4, [5] = 8, [6] = 1, [7] = 2, [8] = 4, [9] = 8, [10] = 2, [11] = 2, [12] = 4, [13] = 8};

#define SHM_SERVER_STATE_SERVING 0u
#define SHM_SERVER_STATE_DRAINING 1u

struct shm_submission {
    uint64_t turn;
    uint64_t request_id;
    uint64_t deadline;
    uint64_t submitted;
    uint32_t slot;
    uint16_t op;
    uint16_t flags;
    uint32_t extent;
    uint32_t sampling_steps;
    float temperature;
    uint32_t top_k;
    uint64_t seed;
};
_Static_assert(sizeof(struct shm_submission) == 64, "submission");
_Static_assert(offsetof(struct shm_submission, turn) == 0, "turn");
_Static_assert(offsetof(struct shm_submission, request_id) == 8, "request_id");
_Static_assert(offsetof(struct shm_submission, deadline) == 16, "deadline");
_Static_assert(offsetof(struct shm_submission, submitted) == 24, "submitted");
_Static_assert(offsetof(struct shm_submission, slot) == 32, "slot");
_Static_assert(offsetof(struct shm_submission, op) == 36, "op");
_Static_assert(offsetof(struct shm_submission, flags) == 38, "flags");
_Static_assert(offsetof(struct shm_submission, extent) == 40, "extent");
_Static_assert(offsetof(struct shm_submission, sampling_steps) == 44, "sampling_steps");
_Static_assert(offsetof(struct shm_submission, temperature) == 48, "temperature");
_Static_assert(offsetof(struct shm_submission, top_k) == 52, "top_k");
_Static_assert(offsetof(struct shm_submission, seed) == 56, "seed");

#define SHM_OP_ECHO 1u
#define SHM_OP_RUN 2u

#define SHM_SUBMISSION_FLAG_WITH_TEMPERATURE 1u
#define SHM_SUBMISSION_FLAG_WITH_TOP_K 2u
#define SHM_SUBMISSION_FLAG_WITH_SEED 4u

struct shm_completion {
    uint64_t turn;
    uint64_t request_id;
    uint32_t slot;
    uint16_t status;
    uint16_t flags;
    uint32_t extent;
    uint32_t message_bytes;
    uint32_t batch;
    uint8_t reserved_36[4];
    uint64_t checksum;
    uint64_t queue_ns;
    uint64_t model_ns;
};
_Static_assert(sizeof(struct shm_completion) == 64, "completion");
_Static_assert(offsetof(struct shm_completion, turn) == 0, "turn");
_Static_assert(offsetof(struct shm_completion, request_id) == 8, "request_id");
_Static_assert(offsetof(struct shm_completion, slot) == 16, "slot");
_Static_assert(offsetof(struct shm_completion, status) == 20, "status");
_Static_assert(offsetof(struct shm_completion, flags) == 22, "flags");
_Static_assert(offsetof(struct shm_completion, extent) == 24, "extent");
_Static_assert(offsetof(struct shm_completion, message_bytes) == 28, "message_bytes");
_Static_assert(offsetof(struct shm_completion, batch) == 32, "batch");
_Static_assert(offsetof(struct shm_completion, checksum) == 40, "checksum");
_Static_assert(offsetof(struct shm_completion, queue_ns) == 48, "queue_ns");
_Static_assert(offsetof(struct shm_completion, model_ns) == 56, "model_ns");

#define SHM_STATUS_OK 0u
#define SHM_STATUS_DEADLINE_EXCEEDED 1u
#define SHM_STATUS_DRAINING 2u
#define SHM_STATUS_MODEL_ERROR 3u
#define SHM_STATUS_MORE 4u
#define SHM_STATUS_CANCELLED 5u
#define SHM_STATUS_INVALID 6u
#define SHM_STATUS_UNAVAILABLE 7u
#define SHM_STATUS_UNAUTHORIZED 8u
#define SHM_STATUS_RATE_LIMITED 9u
#define SHM_STATUS_TIMED_OUT 10u
#define SHM_STATUS_BROKEN 11u

#define SHM_COMPLETION_FLAG_TRUNCATED 1u

struct shm_control {
    uint32_t acknowledged;
    uint32_t cancel;
    uint8_t reserved_8[120];
};
_Static_assert(sizeof(struct shm_control) == 128, "control");
_Static_assert(offsetof(struct shm_control, acknowledged) == 0, "acknowledged");
_Static_assert(offsetof(struct shm_control, cancel) == 4, "cancel");

struct shm_progress {
    uint32_t extent;
    uint8_t reserved_4[124];
};
_Static_assert(sizeof(struct shm_progress) == 128, "progress");
_Static_assert(offsetof(struct shm_progress, extent) == 0, "extent");

struct shm_frame {
    uint32_t magic;
    uint16_t kind;
    uint8_t reserved_6[2];
    uint32_t body_bytes;
    uint8_t reserved_12[4];
};
_Static_assert(sizeof(struct shm_frame) == 16, "frame");
_Static_assert(offsetof(struct shm_frame, magic) == 0, "magic");
_Static_assert(offsetof(struct shm_frame, kind) == 4, "kind");
_Static_assert(offsetof(struct shm_frame, body_bytes) == 8, "body_bytes");

#define SHM_FRAME_KIND_HELLO 1u
#define SHM_FRAME_KIND_WELCOME 2u
#define SHM_FRAME_KIND_REFUSAL 3u
#define SHM_FRAME_KIND_GOODBYE 4u
#define SHM_FRAME_KIND_QUESTION 5u
#define SHM_FRAME_KIND_ANSWER 6u

struct shm_hello {
    uint16_t layout_major;
    uint16_t layout_minor;
    uint32_t protocol;
    uint64_t features_known;
    uint64_t features_needed;
    uint32_t slot_count;
    uint32_t input_extent;
    uint32_t output_extent;
    uint32_t model_bytes;
};
_Static_assert(sizeof(struct shm_hello) == 40, "hello");
_Static_assert(offsetof(struct shm_hello, layout_major) == 0, "layout_major");
_Static_assert(offsetof(struct shm_hello, layout_minor) == 2, "layout_minor");
_Static_assert(offsetof(struct shm_hello, protocol) == 4, "protocol");
_Static_assert(offsetof(struct shm_hello, features_known) == 8, "features_known");
_Static_assert(offsetof(struct shm_hello, features_needed) == 16, "features_needed");
_Static_assert(offsetof(struct shm_hello, slot_count) == 24, "slot_count");
_Static_assert(offsetof(struct shm_hello, input_extent) == 28, "input_extent");
_Static_assert(offsetof(struct shm_hello, output_extent) == 32, "output_extent");
_Static_assert(offsetof(struct shm_hello, model_bytes) == 36, "model_bytes");

struct shm_welcome {
    uint16_t layout_major;
    uint16_t layout_minor;
    uint32_t metadata_bytes;
    uint64_t segment_bytes;
    uint64_t epoch;
    uint64_t features;
    uint64_t clock;
};
_Static_assert(sizeof(struct shm_welcome) == 40, "welcome");
_Static_assert(offsetof(struct shm_welcome, layout_major) == 0, "layout_major");
_Static_assert(offsetof(struct shm_welcome, layout_minor) == 2, "layout_minor");
_Static_assert(offsetof(struct shm_welcome, metadata_bytes) == 4, "metadata_bytes");
_Static_assert(offsetof(struct shm_welcome, segment_bytes) == 8, "segment_bytes");
_Static_assert(offsetof(struct shm_welcome, epoch) == 16, "epoch");
_Static_assert(offsetof(struct shm_welcome, features) == 24, "features");
_Static_assert(offsetof(struct shm_welcome, clock) == 32, "clock");

struct shm_reason_body {
    uint16_t reason;
    uint8_t reserved_2[2];
    uint32_t message_bytes;
};
_Static_assert(sizeof(struct shm_reason_body) == 8, "reason_body");
_Static_assert(offsetof(struct shm_reason_body, reason) == 0, "reason");
_Static_assert(offsetof(struct shm_reason_body, message_bytes) == 4, "message_bytes");

#define SHM_REASON_VERSION 1u
#define SHM_REASON_FEATURES 2u
#define SHM_REASON_MALFORMED 3u
#define SHM_REASON_NO_SUCH_MODEL 4u
#define SHM_REASON_NO_MEMORY 5u
#define SHM_REASON_TOO_MANY_SESSIONS 6u
#define SHM_REASON_FORBIDDEN 7u
#define SHM_REASON_DRAINING 8u
#define SHM_REASON_PROTOCOL 9u
#define SHM_REASON_INTERNAL 10u
#define SHM_REASON_MOVED 11u
#define SHM_REASON_STARTING 12u

#endif
