/* The server's side of a prompt: text that grows in the reply, `more` completions, the final one (layout.md, "Streaming").
 *
 * A prompt stays in flight from ring_begin_prompts to ring_finish_prompt; any number are at a time, one a slot.
 */
#ifndef SHM_STREAM_H
#define SHM_STREAM_H

#include "ring.h"

/* Move the batch that ring_drain took to the streams. */
static inline void ring_begin_prompts(struct ring_lane *lane)
{
    lane->counters[RING_PROMPTS] += lane->count;
    lane->counters[RING_BATCHES]++;
    for (uint32_t i = 0; i < lane->count; i++) {
        const struct ring_request *request = &lane->batch[i];
        lane->streams[request->s.slot] = (struct ring_stream){
            .request_id = request->s.request_id, .queue_ns = request->queue_ns, .taken_ns = lane->taken_ns};
        /* The client reads it only after a `more`, whose release of `turn` comes later. */
        atomic_store_explicit(ring_progress(lane, request->s.slot), 0, memory_order_relaxed);
    }
    lane->count = lane->op = 0;
}

static inline bool ring_prompted(const struct ring_lane *lane, uint32_t slot)
{
    return lane->streams && slot < lane->at.lane.slot_count && lane->in_flight[slot];
}

/* Bytes of text that the reply still takes. */
static inline uint32_t ring_room(const struct ring_lane *lane, uint32_t slot)
{
    return lane->at.tensors[1].dims[0] - lane->streams[slot].text;
}

static inline bool ring_cancelled(const struct ring_lane *lane, uint32_t slot)
{
    return atomic_load_explicit((const _Atomic uint32_t *)&ring_control(lane, slot)->cancel, memory_order_acquire) != 0;
}

/* Add text, at most ring_room bytes, and tell the client unless it has a `more` to take already. */
static inline void ring_append(struct ring_lane *lane, uint32_t slot, const char *text, uint32_t length)
{
    struct ring_stream *stream = &lane->streams[slot];
    memcpy(ring_row(lane, 1, slot) + stream->text, text, length);
    stream->text += length;
    atomic_store_explicit(ring_progress(lane, slot), stream->text, memory_order_seq_cst); /* P1 */
    /* P2, against C2 of layout.md: either we see the acknowledgement of the last `more`, or the client, which has just
     * acknowledged, sees this length. Without it both may miss, and the text waits for the next token. */
    atomic_thread_fence(memory_order_seq_cst);
    const _Atomic uint32_t *acknowledged = (const _Atomic uint32_t *)&ring_control(lane, slot)->acknowledged;
    if (atomic_load_explicit(acknowledged, memory_order_seq_cst) != stream->mores) /* P3 */
        return;
    stream->mores++;
    ring_publish(lane, (struct shm_completion){.request_id = stream->request_id, .slot = slot,
                                               .status = SHM_STATUS_MORE, .extent = stream->text,
                                               .batch = 1, .queue_ns = stream->queue_ns});
    lane->in_flight[slot] = 1; /* ring_publish gave the slot back: not yet */
    ring_bell(lane);
}

/* Complete a prompt: the text so far, and for an error up to SHM_MESSAGE_BYTES of message. `started_ns` is when
 * its turn came (CLOCK_MONOTONIC), 0 when it never did: until then it waited, from the moment that it was taken. */
static inline void ring_finish_prompt(struct ring_lane *lane, uint32_t slot, uint16_t status, uint16_t flags,
                                      const char *message, uint32_t length, uint64_t started_ns)
{
    struct ring_stream *stream = &lane->streams[slot];
    uint64_t now = ring_now();
    if (started_ns < stream->taken_ns || started_ns > now)
        started_ns = now;
    uint64_t waited_ns = started_ns - stream->taken_ns, model_ns = now - started_ns;
    lane->counters[RING_QUEUE_NS] += waited_ns;
    lane->counters[RING_MODEL_NS] += model_ns;
    if (status != SHM_STATUS_OK && status != SHM_STATUS_CANCELLED)
        lane->counters[RING_MODEL_ERRORS]++;
    struct shm_completion done = {.request_id = stream->request_id, .slot = slot, .status = status, .flags = flags,
                                  .extent = stream->text, .batch = 1, .queue_ns = stream->queue_ns + waited_ns,
                                  .model_ns = model_ns};
    ring_say(lane, &done, message, length);
    ring_publish(lane, done);
    ring_bell(lane);
}

#endif
