/* Generated from layout.md by shm_server/layout/generate.py; do not edit. */
#ifndef SHM_LAYOUT_H
#define SHM_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#define SHM_LAYOUT_MAJOR 1u
#define SHM_LAYOUT_MINOR 1u
#define SHM_SEGMENT_MAGIC 3553990275162788947ull
#define SHM_FRAME_MAGIC 826430547u
#define SHM_BELL 1u
#define SHM_PAGE_BYTES 4096u
#define SHM_LINE_BYTES 128u
#define SHM_ENTRY_BYTES 64u
#define SHM_IMAGE_BYTES 3072u
#define SHM_MESSAGE_BYTES 256u
#define SHM_MAX_TEXT_BYTES 16777216u
#define SHM_MAX_LANES 8u
#define SHM_MAX_SLOTS 65536u
#define SHM_MAX_SEGMENT_BYTES 1073741824u
#define SHM_MAX_FRAME_BODY 65536u

#define SHM_HEADER_MAGIC 0u
#define SHM_HEADER_LAYOUT_MAJOR 8u
#define SHM_HEADER_LAYOUT_MINOR 10u
#define SHM_HEADER_HEADER_BYTES 12u
#define SHM_HEADER_SEGMENT_BYTES 16u
#define SHM_HEADER_EPOCH 24u
#define SHM_HEADER_FEATURES_REQUIRED 32u
#define SHM_HEADER_FEATURES_OPTIONAL 40u
#define SHM_HEADER_LANE_COUNT 48u
#define SHM_HEADER_LANES 128u
#define SHM_HEADER_SERVER_PARKED 2048u
#define SHM_HEADER_CLIENT_PARKED 2176u
#define SHM_HEADER_SERVER_STATE 2304u

struct shm_lane {
    uint32_t kind;
    uint32_t slot_count;
    uint32_t slot_bytes;
    uint32_t reply_bytes;
    uint32_t submission_entries;
    uint32_t completion_entries;
    uint64_t submissions_offset;
    uint64_t completions_offset;
    uint64_t slots_offset;
    uint64_t replies_offset;
    uint64_t controls_offset;
    uint64_t progress_offset;
    uint8_t reserved_72[56];
};
_Static_assert(sizeof(struct shm_lane) == 128, "lane");
_Static_assert(offsetof(struct shm_lane, kind) == 0, "kind");
_Static_assert(offsetof(struct shm_lane, slot_count) == 4, "slot_count");
_Static_assert(offsetof(struct shm_lane, slot_bytes) == 8, "slot_bytes");
_Static_assert(offsetof(struct shm_lane, reply_bytes) == 12, "reply_bytes");
_Static_assert(offsetof(struct shm_lane, submission_entries) == 16, "submission_entries");
_Static_assert(offsetof(struct shm_lane, completion_entries) == 20, "completion_entries");
_Static_assert(offsetof(struct shm_lane, submissions_offset) == 24, "submissions_offset");
_Static_assert(offsetof(struct shm_lane, completions_offset) == 32, "completions_offset");
_Static_assert(offsetof(struct shm_lane, slots_offset) == 40, "slots_offset");
_Static_assert(offsetof(struct shm_lane, replies_offset) == 48, "replies_offset");
_Static_assert(offsetof(struct shm_lane, controls_offset) == 56, "controls_offset");
_Static_assert(offsetof(struct shm_lane, progress_offset) == 64, "progress_offset");

#define SHM_LANE_KIND_IMAGE 1u
#define SHM_LANE_KIND_PROMPT 2u

#define SHM_SERVER_STATE_SERVING 0u
#define SHM_SERVER_STATE_DRAINING 1u

struct shm_submission {
    uint64_t turn;
    uint64_t request_id;
    uint64_t deadline;
    uint32_t slot;
    uint16_t op;
    uint16_t flags;
    uint32_t length;
    uint32_t sampling_steps;
    uint64_t submitted;
    float temperature;
    uint32_t top_k;
    uint64_t seed;
};
_Static_assert(sizeof(struct shm_submission) == 64, "submission");
_Static_assert(offsetof(struct shm_submission, turn) == 0, "turn");
_Static_assert(offsetof(struct shm_submission, request_id) == 8, "request_id");
_Static_assert(offsetof(struct shm_submission, deadline) == 16, "deadline");
_Static_assert(offsetof(struct shm_submission, slot) == 24, "slot");
_Static_assert(offsetof(struct shm_submission, op) == 28, "op");
_Static_assert(offsetof(struct shm_submission, flags) == 30, "flags");
_Static_assert(offsetof(struct shm_submission, length) == 32, "length");
_Static_assert(offsetof(struct shm_submission, sampling_steps) == 36, "sampling_steps");
_Static_assert(offsetof(struct shm_submission, submitted) == 40, "submitted");
_Static_assert(offsetof(struct shm_submission, temperature) == 48, "temperature");
_Static_assert(offsetof(struct shm_submission, top_k) == 52, "top_k");
_Static_assert(offsetof(struct shm_submission, seed) == 56, "seed");

#define SHM_OP_ECHO 1u
#define SHM_OP_CLASSIFY 2u
#define SHM_OP_PROMPT 3u

#define SHM_SUBMISSION_FLAG_WANT_SCORES 1u
#define SHM_SUBMISSION_FLAG_WITH_TEMPERATURE 2u
#define SHM_SUBMISSION_FLAG_WITH_TOP_K 4u
#define SHM_SUBMISSION_FLAG_WITH_SEED 8u

struct shm_completion {
    uint64_t turn;
    uint64_t request_id;
    uint32_t slot;
    uint16_t status;
    uint16_t flags;
    uint32_t length;
    uint32_t label;
    float score;
    uint32_t batch;
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
_Static_assert(offsetof(struct shm_completion, length) == 24, "length");
_Static_assert(offsetof(struct shm_completion, label) == 28, "label");
_Static_assert(offsetof(struct shm_completion, score) == 32, "score");
_Static_assert(offsetof(struct shm_completion, batch) == 36, "batch");
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
    uint32_t length;
    uint8_t reserved_4[124];
};
_Static_assert(sizeof(struct shm_progress) == 128, "progress");
_Static_assert(offsetof(struct shm_progress, length) == 0, "length");

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

struct shm_hello {
    uint16_t layout_major;
    uint16_t layout_minor;
    uint32_t lane_count;
    uint64_t features_known;
    uint64_t features_needed;
    uint8_t reserved_24[8];
};
_Static_assert(sizeof(struct shm_hello) == 32, "hello");
_Static_assert(offsetof(struct shm_hello, layout_major) == 0, "layout_major");
_Static_assert(offsetof(struct shm_hello, layout_minor) == 2, "layout_minor");
_Static_assert(offsetof(struct shm_hello, lane_count) == 4, "lane_count");
_Static_assert(offsetof(struct shm_hello, features_known) == 8, "features_known");
_Static_assert(offsetof(struct shm_hello, features_needed) == 16, "features_needed");

struct shm_lane_request {
    uint32_t kind;
    uint32_t slot_count;
    uint32_t slot_bytes;
    uint32_t reply_bytes;
};
_Static_assert(sizeof(struct shm_lane_request) == 16, "lane_request");
_Static_assert(offsetof(struct shm_lane_request, kind) == 0, "kind");
_Static_assert(offsetof(struct shm_lane_request, slot_count) == 4, "slot_count");
_Static_assert(offsetof(struct shm_lane_request, slot_bytes) == 8, "slot_bytes");
_Static_assert(offsetof(struct shm_lane_request, reply_bytes) == 12, "reply_bytes");

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
#define SHM_REASON_LANE_UNAVAILABLE 4u
#define SHM_REASON_NO_MEMORY 5u
#define SHM_REASON_TOO_MANY_SESSIONS 6u
#define SHM_REASON_FORBIDDEN 7u
#define SHM_REASON_DRAINING 8u
#define SHM_REASON_PROTOCOL 9u
#define SHM_REASON_INTERNAL 10u

#endif
