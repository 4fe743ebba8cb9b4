/* The client's side of one lane: claim a slot, publish its submission, consume completions, park and ring.
 *
 * Pure C11, no Python, like ring.h, whose clock, turns and pause it uses: the sanitizer programs under tests/native include it as it
 * is. Every word that the server can write is loaded once, into private memory, and checked there; positions, geometry and the table of
 * calls are private, and the segment is never asked for them again.
 *
 * Nothing in here is safe for concurrent use but client_published, client_arm and client_disarm, which touch the segment and a
 * position that the caller has copied. The lane's owner (client.c) serialises the rest.
 */
#ifndef SHM_CLIENT_H
#define SHM_CLIENT_H

#include "ring.h"

/* A slot's life, layout.md "The life of a slot".
 *
 *   free --claim--> claimed --submit--> in flight --completion--> done ----release----> free
 *                                        |    |
 *                                        |    +--session ends--> failed --release----> free
 *                                        +--given up--> abandoned --completion or end--> free
 */
enum client_state { CLIENT_FREE, CLIENT_CLAIMED, CLIENT_IN_FLIGHT, CLIENT_ABANDONED, CLIENT_DONE, CLIENT_FAILED };

/* What waits for the completion of one slot's submission. */
struct client_call {
    enum client_state state;
    bool streaming;               /* a `more` may come before the final completion */
    uint32_t mores, taken;        /* `more` completions that came, and those whose text was asked for */
    uint32_t read;                /* bytes of text that were handed out */
    uint64_t request_id;
    struct shm_completion result; /* with `done`: a private copy, checked */
    void *waiter;                 /* of the lane's owner */
};

struct client_lane {
    uint8_t *base;                 /* the mapping; the lane's owner keeps it alive */
    struct geometry at;            /* private copy of what the header says */
    uint64_t head, tail;           /* next completion to consume, next submission to produce */
    struct client_call *calls;     /* [slot_count] */
    uint64_t *free;                /* a bit for each slot that nobody owns */
    uint32_t free_count, in_flight;
    int64_t ahead_ns;              /* the server's clock less ours */
    const _Atomic uint32_t *broken; /* nonzero once the mapping was replaced by zeros (guard.h) */
    char fault[128];               /* how the server broke the protocol, or empty */
};

static inline uint32_t client_words(const struct client_lane *lane)
{
    return (lane->at.lane.slot_count + 63) / 64;
}

/* Open the fresh lane of the segment of `size` bytes at `base`, of whose header `header` is a private copy. `calls` and `free` are the
 * caller's to allot, zeroed, before client_start. False: the header describes no lane. */
static inline bool client_open(struct client_lane *lane, uint8_t *base, const uint8_t *header, uint64_t size)
{
    memset(lane, 0, sizeof *lane);
    lane->base = base;
    lane->broken = &ring_whole; /* unless the owner of the mapping says otherwise */
    return size >= SHM_PAGE_BYTES && (uintptr_t)base % SHM_PAGE_BYTES == 0 && geometry_parse(&lane->at, header, size);
}

static inline void client_start(struct client_lane *lane)
{
    lane->free_count = lane->at.lane.slot_count;
    for (uint32_t slot = 0; slot < lane->free_count; slot++)
        lane->free[slot / 64] |= UINT64_C(1) << slot % 64;
}

/* ---- words of the segment ---- */

static inline _Atomic uint32_t *client_word32(const struct client_lane *lane, uint64_t offset)
{
    return (_Atomic uint32_t *)(void *)(lane->base + offset);
}

static inline _Atomic uint64_t *client_entry(const struct client_lane *lane, uint64_t ring, uint32_t entries, uint64_t position)
{
    return (_Atomic uint64_t *)(void *)(lane->base + ring + (position & (entries - 1)) * SHM_ENTRY_BYTES);
}

static inline uint8_t *client_row(const struct client_lane *lane, uint32_t tensor, uint32_t slot)
{
    const struct shm_tensor *at = &lane->at.tensors[tensor];
    return lane->base + at->offset + (uint64_t)slot * at->row_bytes;
}

static inline const uint8_t *client_message(const struct client_lane *lane, uint32_t slot)
{
    return lane->base + lane->at.lane.messages_offset + (uint64_t)slot * SHM_MESSAGE_BYTES;
}

static inline _Atomic uint32_t *client_control(const struct client_lane *lane, uint32_t slot, uint32_t word)
{
    return client_word32(lane, lane->at.lane.controls_offset + (uint64_t)slot * sizeof(struct shm_control) + word);
}

/* Acquire: pairs with the server's release store when it begins to drain (ring_announce_draining). Asked before a slot is claimed. */
static inline bool client_draining(const struct client_lane *lane)
{
    return atomic_load_explicit(client_word32(lane, SHM_HEADER_SERVER_STATE), memory_order_acquire) !=
           SHM_SERVER_STATE_SERVING;
}

/* Relaxed: whoever has read a zero of pages that are gone finds it set, see guard.c. */
static inline bool client_broken(const struct client_lane *lane)
{
    return atomic_load_explicit(lane->broken, memory_order_relaxed) != 0;
}

/* ---- slots ---- */

/* The lowest free slot, so that calls made together lie side by side, and one caller's slot stays in the cache. -1: none is free. */
static inline int64_t client_claim(struct client_lane *lane)
{
    for (uint32_t word = 0; lane->free_count && word < client_words(lane); word++) {
        if (!lane->free[word])
            continue;
        uint32_t slot = word * 64 + (uint32_t)__builtin_ctzll(lane->free[word]);
        lane->free[word] &= lane->free[word] - 1;
        lane->free_count--;
        lane->calls[slot].state = CLIENT_CLAIMED;
        return slot;
    }
    return -1;
}

static inline void client_release(struct client_lane *lane, uint32_t slot)
{
    lane->calls[slot].state = CLIENT_FREE;
    lane->free[slot / 64] |= UINT64_C(1) << slot % 64;
    lane->free_count++;
}

/* ---- submissions ---- */

/* Publish the submission of a claimed slot; its turn, request id and slot are filled in. There is always room, see layout.md,
 * "Rings". client_bell_due follows. */
static inline void client_submit(struct client_lane *lane, uint32_t slot, struct shm_submission s)
{
    struct client_call *call = &lane->calls[slot];
    bool stream = lane->at.lane.protocol == SHM_PROTOCOL_STREAM;
    s.request_id = lane->tail; /* never twice in a session */
    s.slot = slot;
    call->request_id = s.request_id;
    call->streaming = stream && s.op == SHM_OP_RUN;
    call->mores = call->taken = call->read = 0;
    call->state = CLIENT_IN_FLIGHT;
    lane->in_flight++;
    if (stream) { /* the release of the turn comes after these */
        atomic_store_explicit(client_control(lane, slot, offsetof(struct shm_control, acknowledged)), 0, memory_order_relaxed);
        atomic_store_explicit(client_control(lane, slot, offsetof(struct shm_control, cancel)), 0, memory_order_relaxed);
    }
    _Atomic uint64_t *entry =
        client_entry(lane, lane->at.lane.submissions_offset, lane->at.lane.submission_entries, lane->tail);
    uint64_t words[SHM_ENTRY_BYTES / 8];
    memcpy(words, &s, sizeof words);
    for (size_t i = 1; i < SHM_ENTRY_BYTES / 8; i++)
        atomic_store_explicit(entry + i, words[i], memory_order_relaxed);
    /* Release: pairs with the server's acquire load of the turn (ring_peek): who sees it sees the entry and the slot's inputs. */
    atomic_store_explicit(entry, ring_turn(lane->tail, lane->at.lane.submission_entries), memory_order_release);
    lane->tail++;
}

/* Does the server sleep, so that a bell must be written? Asked after client_submit.
 * W2, W3 and W4 of layout.md, "Sleeping and waking". The fence stands between our release of the turn and our load of `server_parked`,
 * against the server's store of that and its last look at the ring (poller_park). Forbidden: our load passes our store and misses the
 * flag, the server's look misses the entry, and it sleeps on a submission that is there. */
static inline bool client_bell_due(struct client_lane *lane)
{
    _Atomic uint32_t *parked = client_word32(lane, SHM_HEADER_SERVER_PARKED);
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load_explicit(parked, memory_order_seq_cst) && atomic_exchange_explicit(parked, 0, memory_order_seq_cst);
}

/* ---- completions ---- */

/* Does the entry at `head` hold anything else than what stood there before? A turn that no correct server writes is something too, and
 * so is one of a later lap: whoever shares the lane may have consumed this entry meanwhile. */
static inline bool client_published(const struct client_lane *lane, uint64_t head)
{
    uint32_t entries = lane->at.lane.completion_entries;
    return atomic_load_explicit(client_entry(lane, lane->at.lane.completions_offset, entries, head), memory_order_acquire) !=
               ring_turn_before(head, entries) ||
           client_broken(lane);
}

/* S1 to S3 of layout.md, "Sleeping and waking": true: there is an entry at `head`, do not sleep.
 * The fence stands between our store of `client_parked` and our last look at the ring, against the server's release of the turn and its
 * load of the flag (ring_bell). Forbidden: our look passes our store and misses the entry, the server's load misses the flag, and we
 * sleep on a completion that is there. */
static inline bool client_arm(const struct client_lane *lane, uint64_t head)
{
    atomic_store_explicit(client_word32(lane, SHM_HEADER_CLIENT_PARKED), 1, memory_order_seq_cst);
    atomic_thread_fence(memory_order_seq_cst);
    return client_published(lane, head);
}

/* A server that still sees 1 rings once for nothing. */
static inline void client_disarm(const struct client_lane *lane)
{
    atomic_store_explicit(client_word32(lane, SHM_HEADER_CLIENT_PARKED), 0, memory_order_seq_cst);
}

static inline uint32_t client_completion_bound(const struct client_lane *lane)
{
    return lane->at.lane.protocol == SHM_PROTOCOL_STREAM ? lane->at.tensors[1].dims[0] : lane->at.bound;
}

/* What is wrong with a completion, or NULL. */
static inline const char *client_check(const struct client_lane *lane, const struct shm_completion *done, uint64_t *value)
{
    uint16_t last = lane->at.lane.protocol == SHM_PROTOCOL_STREAM ? SHM_STATUS_BROKEN : SHM_STATUS_MODEL_ERROR;
    *value = done->slot;
    if (done->slot >= lane->at.lane.slot_count)
        return "slot: out of range";
    const struct client_call *call = &lane->calls[done->slot];
    if (call->state != CLIENT_IN_FLIGHT && call->state != CLIENT_ABANDONED)
        return "slot: not in flight";
    if (done->request_id != call->request_id)
        return *value = done->request_id, "request_id: not that of the slot's call";
    if (done->status > last || (done->status == SHM_STATUS_MORE && !call->streaming))
        return *value = done->status, "status: not one that this call can have";
    if (done->extent > client_completion_bound(lane))
        return *value = done->extent, "extent: beyond the bound";
    if (done->message_bytes > SHM_MESSAGE_BYTES)
        return *value = done->message_bytes, "message: longer than its room";
    return NULL;
}

/* Consume the completion at the head. 1: there is news of `*slot`: it is done, has more text, or is free because nobody wants it;
 * 0: there is none; -1: the server broke the protocol, `fault` says how, and the lane must not be used again. */
static inline int client_take(struct client_lane *lane, uint32_t *slot)
{
    if (lane->fault[0])
        return -1;
    uint32_t entries = lane->at.lane.completion_entries;
    const _Atomic uint64_t *entry = client_entry(lane, lane->at.lane.completions_offset, entries, lane->head);
    uint64_t words[SHM_ENTRY_BYTES / 8];
    /* Acquire: pairs with the server's release store of the turn (ring_publish): with it we see the entry and the slot's outputs. */
    words[0] = atomic_load_explicit(entry, memory_order_acquire);
    bool there = words[0] == ring_turn(lane->head, entries);
    if (!there && words[0] == ring_turn_before(lane->head, entries) && !client_broken(lane))
        return 0;
    uint64_t value = words[0];
    const char *wrong = "turn: neither old nor new";
    struct shm_completion done;
    if (there) {
        for (size_t i = 1; i < SHM_ENTRY_BYTES / 8; i++)
            words[i] = atomic_load_explicit(entry + i, memory_order_relaxed);
        memcpy(&done, words, sizeof done);
        wrong = client_check(lane, &done, &value);
    }
    if (client_broken(lane)) /* whatever the zeros look like */
        snprintf(lane->fault, sizeof lane->fault, "memory: the segment was truncated, or pages were taken out of it");
    else if (wrong)
        snprintf(lane->fault, sizeof lane->fault, "%s (completion %llu says %llu)", wrong, (unsigned long long)lane->head,
                 (unsigned long long)value);
    if (lane->fault[0])
        return -1;
    lane->head++;
    *slot = done.slot;
    struct client_call *call = &lane->calls[done.slot];
    if (done.status == SHM_STATUS_MORE) {
        call->mores++;
        return 1;
    }
    lane->in_flight--;
    call->result = done;
    if (call->state == CLIENT_ABANDONED)
        client_release(lane, done.slot);
    else
        call->state = CLIENT_DONE;
    return 1;
}

/* Is there something for the slot's owner: the end, or text that it has not asked for? */
static inline bool client_news(const struct client_lane *lane, uint32_t slot)
{
    const struct client_call *call = &lane->calls[slot];
    return call->state == CLIENT_DONE || call->state == CLIENT_FAILED || call->mores != call->taken;
}

/* ---- a prompt ---- */

/* The text of a prompt that has not been handed out yet, where client_news is true: `*length` bytes in the segment. False: it shrank or
 * is longer than the reply, and `fault` says so. */
static inline bool client_text(struct client_lane *lane, uint32_t slot, const uint8_t **text, uint32_t *length)
{
    struct client_call *call = &lane->calls[slot];
    uint32_t extent = call->result.extent;
    if (call->state == CLIENT_IN_FLIGHT) {
        call->taken = call->mores;
        atomic_store_explicit(client_control(lane, slot, offsetof(struct shm_control, acknowledged)), call->taken,
                              memory_order_seq_cst); /* C1 */
        /* C2, against P2 of layout.md (ring_append): either the server sees our acknowledgement and publishes the next `more`, or we see
         * its length. Without it both may miss, and the text waits for the next token. */
        atomic_thread_fence(memory_order_seq_cst);
        uint64_t progress = lane->at.lane.progress_offset + (uint64_t)slot * sizeof(struct shm_progress);
        extent = atomic_load_explicit(client_word32(lane, progress), memory_order_seq_cst); /* C3 */
    }
    if (extent < call->read || extent > client_completion_bound(lane)) {
        if (!lane->fault[0])
            snprintf(lane->fault, sizeof lane->fault, "extent: slot %u has %u bytes of text after %u, and %u fit", slot, extent,
                     call->read, client_completion_bound(lane));
        return false;
    }
    *text = client_row(lane, 1, slot) + call->read;
    *length = extent - call->read;
    call->read = extent;
    return true;
}

/* Ask the server to stop after the current token. */
static inline void client_cancel(struct client_lane *lane, uint32_t slot)
{
    if (lane->calls[slot].streaming)
        atomic_store_explicit(client_control(lane, slot, offsetof(struct shm_control, cancel)), 1, memory_order_release);
}

#endif
