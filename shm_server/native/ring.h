/* The server's side of one lane: consume submissions, produce completions, park and ring.
 *
 * Pure C11, no Python: the sanitizer programs under tests/native include it as it is. All pointer
 * arithmetic on the segment is in this file and in geometry.h. Every word that the client can write is loaded once,
 * into private memory, and checked there.
 *
 * Positions, geometry and the in-flight table are private; the segment is never asked for them again.
 */
#ifndef SHM_RING_H
#define SHM_RING_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "geometry.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the layout is little-endian");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "the segment needs lock-free atomics");

/* The counters that explain a latency; `ring_counter_names` is in the same order. */
enum ring_counter {
    RING_ECHOES, RING_CALLS, RING_PROMPTS, RING_BATCHES, RING_EXPIRED, RING_REFUSED, RING_MODEL_ERRORS,
    RING_BELLS_SENT, RING_BELLS_SUPPRESSED, RING_BELLS_PENDING, RING_QUEUE_NS, RING_MODEL_NS,
    RING_COUNTERS
};

static const char *const ring_counter_names[RING_COUNTERS] = {
    "echoes", "calls", "prompts", "batches", "expired", "refused", "model_errors",
    "bells_sent", "bells_suppressed", "bells_pending", "queue_ns", "model_ns",
};

/* What is worth fetching ahead: an image of the CIFAR-10 network. */
enum { RING_PREFETCH_BYTES = 3072 };

/* Of a mapping that nobody can take away. */
static const _Atomic uint32_t ring_whole;

/* A prompt in flight. */
struct ring_stream {
    uint64_t request_id, queue_ns;
    uint64_t taken_ns;
    uint32_t text;  /* bytes of text in the reply */
    uint32_t mores; /* `more` completions published */
};

/* A submission that was taken: a private copy, checked. */
struct ring_request {
    struct shm_submission s;
    uint64_t queue_ns; /* how long it had waited by then */
};

/* A batch that was taken, put aside while another is taken. Its fields are those of `ring_lane`. */
struct ring_aside {
    struct ring_request *batch;
    uint32_t count, lowest, highest, extent, op;
    uint64_t taken_ns;
};

struct ring_lane {
    uint8_t *base;                 /* the mapping; the lane's owner keeps it alive */
    struct geometry at;            /* private copy of what the header says, checked by ring_open */
    uint64_t head, tail;           /* next submission to consume, next completion to produce */
    uint8_t *in_flight;            /* [slot_count] 1 from consumption to completion */
    struct ring_request *batch;    /* [slot_count] what the last ring_drain took */
    struct ring_stream *streams;   /* [slot_count] in a stream lane, else NULL */
    uint32_t count;                /* of `batch`; 0 = nothing taken */
    uint32_t lowest, highest;      /* slots of the batch */
    uint32_t extent;               /* the largest of the batch */
    uint32_t op;                   /* of the whole batch; 0 with a fault */
    bool draining;                 /* refuse new work instead of taking it */
    int doorbell;                  /* socket to the client, or -1 */
    const _Atomic uint32_t *broken; /* nonzero once the mapping was replaced by zeros (guard.h) */
    uint64_t taken_ns;             /* when `batch` was taken, CLOCK_MONOTONIC */
    struct ring_aside aside;       /* its batch is NULL until ring_swap is called for the first time */
    uint64_t counters[RING_COUNTERS];
    char fault[96];                /* how the client broke the protocol, or empty */
};

static inline uint64_t ring_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void ring_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); /* `yield` is a no-op on most cores, isb waits a few cycles */
#endif
}

static inline _Atomic uint32_t *ring_flag(const struct ring_lane *lane, uint32_t offset)
{
    return (_Atomic uint32_t *)(void *)(lane->base + offset);
}

/* A slot's row of a tensor: input i is tensor i, output i comes after the inputs. */
static inline uint8_t *ring_row(const struct ring_lane *lane, uint32_t tensor, uint32_t slot)
{
    const struct shm_tensor *at = &lane->at.tensors[tensor];
    return lane->base + at->offset + (uint64_t)slot * at->row_bytes;
}

static inline uint8_t *ring_message(const struct ring_lane *lane, uint32_t slot)
{
    return lane->base + lane->at.lane.messages_offset + (uint64_t)slot * SHM_MESSAGE_BYTES;
}

static inline struct shm_control *ring_control(const struct ring_lane *lane, uint32_t slot)
{
    return (struct shm_control *)(void *)(lane->base + lane->at.lane.controls_offset) + slot;
}

static inline _Atomic uint32_t *ring_progress(const struct ring_lane *lane, uint32_t slot)
{
    return (_Atomic uint32_t *)(void *)(lane->base + lane->at.lane.progress_offset + (uint64_t)slot * sizeof(struct shm_progress));
}

static inline uint8_t *ring_entry(const struct ring_lane *lane, uint64_t ring, uint32_t entries, uint64_t position)
{
    return lane->base + ring + (position & (entries - 1)) * SHM_ENTRY_BYTES;
}

/* position / entries, which is what the entry at `position` holds until it is published. Entries are a power of two: a
 * division takes a poll, which has one for either turn, longer than the look itself. */
static inline uint64_t ring_turn_before(uint64_t position, uint32_t entries)
{
    return position >> __builtin_ctz(entries);
}

/* The turn of a published entry at `position`. */
static inline uint64_t ring_turn(uint64_t position, uint32_t entries)
{
    return ring_turn_before(position + entries, entries); /* the sum wraps at 2^64, as layout.md says */
}

/* Open the lane of the segment of `size` bytes at `base`. False: its header is not one that a server may serve. */
static inline bool ring_open(struct ring_lane *lane, uint8_t *base, uint64_t size, int doorbell)
{
    memset(lane, 0, sizeof *lane);
    if (!geometry_read(&lane->at, base, size))
        return false;
    lane->base = base;
    lane->broken = &ring_whole; /* unless the owner of the mapping says otherwise */
    lane->doorbell = doorbell;
    return true;
}

/* What the entry at the head holds: 0 nothing yet, 1 a submission, -1 a turn that no correct client writes.
 * The acquire pairs with the client's release store of `turn`: with the new turn we see the entry and the slot. */
static inline int ring_peek(const struct ring_lane *lane)
{
    const uint8_t *entry = ring_entry(lane, lane->at.lane.submissions_offset, lane->at.lane.submission_entries, lane->head);
    uint64_t turn = atomic_load_explicit((const _Atomic uint64_t *)(const void *)entry, memory_order_acquire);
    if (turn == ring_turn(lane->head, lane->at.lane.submission_entries))
        return 1;
    return turn == ring_turn_before(lane->head, lane->at.lane.submission_entries) ? 0 : -1;
}

/* Copy the published entry at the head to private memory, each word loaded once. A hostile client may be
 * writing it meanwhile: then the copy is some mixture, and is checked like any other. */
static inline struct shm_submission ring_copy(const struct ring_lane *lane)
{
    const uint8_t *entry = ring_entry(lane, lane->at.lane.submissions_offset, lane->at.lane.submission_entries, lane->head);
    uint64_t words[SHM_ENTRY_BYTES / 8];
    for (size_t i = 0; i < SHM_ENTRY_BYTES / 8; i++)
        words[i] = atomic_load_explicit((const _Atomic uint64_t *)(const void *)(entry + 8 * i), memory_order_relaxed);
    struct shm_submission copy;
    memcpy(&copy, words, sizeof copy);
    return copy;
}

/* Are the operation, the flags and the extent such as the lane takes? NULL, or what is wrong. */
static inline const char *ring_check_op(const struct ring_lane *lane, const struct shm_submission *s, uint64_t *value)
{
    unsigned flags = 0;
    if (s->op == SHM_OP_RUN && lane->at.lane.protocol == SHM_PROTOCOL_STREAM)
        flags = SHM_SUBMISSION_FLAG_WITH_TEMPERATURE | SHM_SUBMISSION_FLAG_WITH_TOP_K | SHM_SUBMISSION_FLAG_WITH_SEED;
    else if (s->op != SHM_OP_RUN && s->op != SHM_OP_ECHO)
        return *value = s->op, "unknown op";
    if (s->flags & ~flags)
        return *value = s->flags, "unknown flags";
    if (s->extent > lane->at.bound)
        return *value = s->extent, "extent beyond the bound";
    return NULL;
}

/* Has the client taken the pages away? Asked where the ring seems empty or wrong, as zeros do: a batch that is there
 * pays nothing. Relaxed: whoever has read a zero of those pages finds it set, see guard.c. */
static inline bool ring_broken(const struct ring_lane *lane)
{
    return atomic_load_explicit(lane->broken, memory_order_relaxed) != 0;
}

static inline bool ring_check(struct ring_lane *lane, const struct shm_submission *s)
{
    const char *what;
    uint64_t value = s->slot;
    if (s->slot >= lane->at.lane.slot_count)
        what = "slot out of range";
    else if (lane->in_flight[s->slot])
        what = "slot already in flight";
    else
        what = ring_check_op(lane, s, &value);
    if (what)
        snprintf(lane->fault, sizeof lane->fault, "submission %llu: %s: %llu", (unsigned long long)lane->head, what,
                 (unsigned long long)value);
    return !what;
}

/* Write a completion and release it. The release store of `turn` pairs with the client's acquire load of it: a
 * client that sees the turn sees the fields and the reply's bytes. There is always room, see layout.md, "Rings". */
static inline void ring_publish(struct ring_lane *lane, struct shm_completion done)
{
    uint8_t *entry = ring_entry(lane, lane->at.lane.completions_offset, lane->at.lane.completion_entries, lane->tail);
    uint64_t words[SHM_ENTRY_BYTES / 8];
    memcpy(words, &done, sizeof words);
    for (size_t i = 1; i < SHM_ENTRY_BYTES / 8; i++)
        atomic_store_explicit((_Atomic uint64_t *)(void *)(entry + 8 * i), words[i], memory_order_relaxed);
    lane->in_flight[done.slot] = 0;
    atomic_store_explicit((_Atomic uint64_t *)(void *)entry, ring_turn(lane->tail, lane->at.lane.completion_entries),
                          memory_order_release);
    lane->tail++;
}

/* Wake the client if it sleeps. Called after ring_publish.
 * The fence stands between our release of `turn` and the load of `client_parked`, against the client's store of
 * `client_parked` and its last look at the ring (a fence between them too). Without it our load may pass our
 * store: we see 0, the client sees no entry, and it sleeps on a completion that is there. */
static inline void ring_bell(struct ring_lane *lane)
{
    _Atomic uint32_t *parked = ring_flag(lane, SHM_HEADER_CLIENT_PARKED);
    atomic_thread_fence(memory_order_seq_cst);
    if (!atomic_load_explicit(parked, memory_order_seq_cst) ||
        !atomic_exchange_explicit(parked, 0, memory_order_seq_cst)) {
        lane->counters[RING_BELLS_SUPPRESSED]++;
        return;
    }
    const uint8_t bell = SHM_BELL;
    ssize_t sent = lane->doorbell < 0 ? 1 : send(lane->doorbell, &bell, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    /* EAGAIN: the socket is full of bells already. Any other error is a client that went away, which the
     * control thread learns from the same socket; there is nobody left to wake. */
    lane->counters[sent == 1 ? RING_BELLS_SENT : RING_BELLS_PENDING]++;
}

static inline struct shm_completion ring_answer(const struct shm_submission *s, uint16_t status)
{
    return (struct shm_completion){.request_id = s->request_id, .slot = s->slot, .status = status};
}

/* Take up to `limit` submissions of one operation, in order. What must not run is answered here: past
 * deadlines, and everything while draining. Returns how many there are to run; 0 with `fault` set means that the
 * client broke the protocol, and the lane must not be used again. */
static inline uint32_t ring_drain(struct ring_lane *lane, uint32_t limit)
{
    lane->count = lane->op = 0;
    if (lane->fault[0])
        return 0;
    int peek = ring_peek(lane);
    if (peek == 0 && !ring_broken(lane))
        return 0;
    uint64_t now = lane->taken_ns = ring_now();
    bool answered = false;
    uint32_t lowest = UINT32_MAX, highest = 0, extent = 0;
    /* `seen` bounds the loop also when all is answered here: a client must not keep us by resubmitting */
    for (uint32_t seen = 0; peek > 0 && seen < limit; seen++, peek = ring_peek(lane)) {
        struct shm_submission s = ring_copy(lane);
        if (lane->count && s.op != lane->op)
            break; /* the next batch copies and checks it anew */
        if (!ring_check(lane, &s))
            break;
        lane->in_flight[s.slot] = 1;
        lane->head++;
        bool expired = s.deadline && s.deadline <= now;
        if (expired || lane->draining) {
            lane->counters[expired ? RING_EXPIRED : RING_REFUSED]++;
            ring_publish(lane, ring_answer(&s, expired ? SHM_STATUS_DEADLINE_EXCEEDED : SHM_STATUS_DRAINING));
            answered = true;
            continue;
        }
        /* the client's clock is ours, but its word is not: a stamp from the future counts as not measured */
        uint64_t queue_ns = s.submitted && s.submitted < now ? now - s.submitted : 0;
        lane->counters[RING_QUEUE_NS] += queue_ns;
        /* Have the first input's lines, at most RING_PREFETCH_BYTES, come from the client's core while Python finds out what to
         * do with them. One slot is enough: reading it, the processor fetches ahead by itself. (In a function of its own gcc
         * 12 takes the loop for one without an effect, and drops it.) */
        uint32_t first = lane->count ? 0 : geometry_valid_bytes(&lane->at, 0, s.extent);
        for (uint32_t at = 0; at < first && at < RING_PREFETCH_BYTES; at += 64)
            __builtin_prefetch(ring_row(lane, 0, s.slot) + at);
        lane->op = s.op;
        lane->batch[lane->count++] = (struct ring_request){s, queue_ns};
        extent = s.extent > extent ? s.extent : extent;
        lowest = s.slot < lowest ? s.slot : lowest;
        highest = s.slot > highest ? s.slot : highest;
    }
    if (peek < 0 && !lane->fault[0])
        snprintf(lane->fault, sizeof lane->fault, "submission %llu: turn neither old nor new",
                 (unsigned long long)lane->head);
    if ((lane->fault[0] || !lane->count) && ring_broken(lane)) /* whatever the zeros looked like */
        snprintf(lane->fault, sizeof lane->fault, "the client truncated its segment, or took pages out of it");
    if (answered)
        ring_bell(lane);
    lane->lowest = lowest;
    lane->highest = highest;
    lane->extent = extent;
    if (lane->fault[0])
        lane->count = lane->op = 0;
    return lane->count;
}

/* Exchange the batch in hand with the one put aside; either may be empty. `lane->aside.batch` has room for every slot. */
static inline void ring_swap(struct ring_lane *lane)
{
    struct ring_aside hand = {lane->batch, lane->count, lane->lowest, lane->highest, lane->extent, lane->op,
                              lane->taken_ns};
    const struct ring_aside *aside = &lane->aside;
    lane->batch = aside->batch;
    lane->count = aside->count;
    lane->lowest = aside->lowest;
    lane->highest = aside->highest;
    lane->extent = aside->extent;
    lane->op = aside->op;
    lane->taken_ns = aside->taken_ns;
    lane->aside = hand;
}

/* Are the batch's slots neighbours, in whatever order they were submitted? */
static inline bool ring_contiguous(const struct ring_lane *lane)
{
    return lane->count && lane->highest - lane->lowest + 1 == lane->count; /* no slot is in a batch twice */
}

static inline uint64_t ring_rotate(uint64_t value, unsigned bits)
{
    return value << bits | value >> (64 - bits);
}

/* Fletcher's two sums over 64-bit words, layout.md "Checksum". */
struct ring_sums {
    uint64_t a, b;
};

/* Add bytes, the last word padded with zeros. They may change under a hostile client's hand; then its own checksum is wrong. */
static inline void ring_sum(struct ring_sums *sums, const uint8_t *bytes, size_t length)
{
    uint64_t a = sums->a, b = sums->b, word;
    size_t whole = length / 8 * 8;
    for (size_t i = 0; i < whole; i += 8) {
        memcpy(&word, bytes + i, 8);
        a += word;
        b += a;
    }
    if (whole < length) {
        word = 0;
        memcpy(&word, bytes + whole, length - whole);
        a += word;
        b += a;
    }
    *sums = (struct ring_sums){a, b};
}

static inline uint64_t ring_checksum_of(struct ring_sums sums)
{
    return sums.a ^ ring_rotate(sums.b, 32);
}

/* Ask the client to submit no more. The release pairs with the client's acquire load of `server_state` before it
 * claims a slot. A client that does not look is answered `draining`, once `lane->draining` is set too. */
static inline void ring_announce_draining(struct ring_lane *lane)
{
    atomic_store_explicit(ring_flag(lane, SHM_HEADER_SERVER_STATE), SHM_SERVER_STATE_DRAINING, memory_order_release);
}

/* Give back the batch: forget it and wake the client. */
static inline void ring_finish(struct ring_lane *lane, uint64_t model_ns)
{
    lane->counters[RING_BATCHES]++;
    lane->counters[RING_MODEL_NS] += model_ns;
    lane->count = lane->op = 0;
    ring_bell(lane);
}

/* An answer to a request that was run with `batch` others or among them. */
static inline struct shm_completion ring_ran(const struct ring_request *request, uint16_t status, uint32_t batch)
{
    struct shm_completion done = ring_answer(&request->s, status);
    done.batch = batch;
    done.queue_ns = request->queue_ns;
    return done;
}

/* Complete an echo batch: read every byte that counts of every input, answer with the checksum. */
static inline void ring_complete_echo(struct ring_lane *lane)
{
    lane->counters[RING_ECHOES] += lane->count;
    for (uint32_t i = 0; i < lane->count; i++) {
        const struct ring_request *request = &lane->batch[i];
        uint32_t slot = request->s.slot, extent = request->s.extent;
        struct shm_completion done = ring_ran(request, SHM_STATUS_OK, lane->count);
        struct ring_sums sums = {0, 0};
        for (uint32_t input = 0; input < lane->at.lane.input_count; input++)
            ring_sum(&sums, ring_row(lane, input, slot), geometry_valid_bytes(&lane->at, input, extent));
        done.checksum = ring_checksum_of(sums);
        done.extent = extent;
        if (lane->streams) /* fits: a reply is at least as long as a prompt */
            memcpy(ring_row(lane, 1, slot), ring_row(lane, 0, slot), extent);
        ring_publish(lane, done);
    }
    ring_finish(lane, 0);
}

static inline void ring_say(struct ring_lane *lane, struct shm_completion *done, const char *message, uint32_t length)
{
    memcpy(ring_message(lane, done->slot), message, length);
    done->message_bytes = length;
}

/* The first output of those in the mask `finite`, all fp32, whose row has a NaN or an infinity; -1: none has. */
static inline int ring_not_finite(const struct ring_lane *lane, const struct ring_request *request, uint32_t finite)
{
    for (; finite; finite &= finite - 1) {
        uint32_t output = (uint32_t)__builtin_ctz(finite), tensor = lane->at.lane.input_count + output;
        const float *row = (const float *)(const void *)ring_row(lane, tensor, request->s.slot);
        uint32_t count = geometry_valid_bytes(&lane->at, tensor, request->s.extent) / (uint32_t)sizeof *row;
        for (uint32_t i = 0; i < count; i++)
            if (!(row[i] - row[i] == 0))
                return (int)output;
    }
    return -1;
}

/* Complete a batch whose outputs stand in the segment. `batch` is how many requests the model ran together, of all sessions;
 * `finite` is a mask of fp32 outputs that are promised to be numbers: where they are not, that request is a model error, and its
 * neighbours in the batch have their answers. */
static inline void ring_complete_calls(struct ring_lane *lane, uint32_t batch, uint32_t finite)
{
    uint64_t model_ns = ring_now() - lane->taken_ns;
    for (uint32_t i = 0; i < lane->count; i++) {
        const struct ring_request *request = &lane->batch[i];
        int broken = ring_not_finite(lane, request, finite);
        struct shm_completion done = ring_ran(request, broken < 0 ? SHM_STATUS_OK : SHM_STATUS_MODEL_ERROR, batch);
        lane->counters[broken < 0 ? RING_CALLS : RING_MODEL_ERRORS]++;
        if (broken < 0) {
            done.extent = request->s.extent;
            done.model_ns = model_ns;
        } else {
            char text[SHM_MESSAGE_BYTES];
            int length = snprintf(text, sizeof text, "the model's output %d holds numbers that are not finite", broken);
            ring_say(lane, &done, text, (uint32_t)length);
        }
        ring_publish(lane, done);
    }
    ring_finish(lane, model_ns);
}

/* Complete a batch whose model raised: the same message for each, of at most SHM_MESSAGE_BYTES. */
static inline void ring_complete_error(struct ring_lane *lane, const char *message, uint32_t length)
{
    lane->counters[RING_MODEL_ERRORS] += lane->count;
    for (uint32_t i = 0; i < lane->count; i++) {
        struct shm_completion done = ring_ran(&lane->batch[i], SHM_STATUS_MODEL_ERROR, lane->count);
        ring_say(lane, &done, message, length);
        ring_publish(lane, done);
    }
    ring_finish(lane, 0);
}

/* Copy the batch's rows of an input to `rows` of `row_bytes` each, in order; zeros behind what counts. */
static inline void ring_gather(const struct ring_lane *lane, uint32_t input, uint8_t *rows, uint32_t row_bytes)
{
    for (uint32_t i = 0; i < lane->count; i++, rows += row_bytes) {
        const struct shm_submission *s = &lane->batch[i].s;
        uint32_t valid = geometry_valid_bytes(&lane->at, input, s->extent);
        valid = valid < row_bytes ? valid : row_bytes;
        memcpy(rows, ring_row(lane, input, s->slot), valid);
        memset(rows + valid, 0, row_bytes - valid);
    }
}

/* Copy rows of `row_bytes` to the slots' rows of an output: one a request in the batch's order, or with `by_slot` in that of
 * the slots, which are neighbours. */
static inline void ring_scatter(const struct ring_lane *lane, uint32_t output, const uint8_t *rows, uint32_t row_bytes,
                                bool by_slot)
{
    uint32_t tensor = lane->at.lane.input_count + output;
    for (uint32_t i = 0; i < lane->count; i++) {
        const struct shm_submission *s = &lane->batch[i].s;
        uint32_t valid = geometry_valid_bytes(&lane->at, tensor, s->extent);
        const uint8_t *row = rows + (size_t)(by_slot ? s->slot - lane->lowest : i) * row_bytes;
        memcpy(ring_row(lane, tensor, s->slot), row, valid < row_bytes ? valid : row_bytes);
    }
}

#endif
