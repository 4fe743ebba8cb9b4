/* A segment of one lane on the heap, for the programs beside this file: the sanitizers see every byte beyond it. */
#ifndef HEAP_SEGMENT_H
#define HEAP_SEGMENT_H

#include <inttypes.h>
#include <stdlib.h>

#include "stream.h"

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

struct heap_segment {
    uint8_t *base;
    uint64_t size;
    struct shm_lane at;
    struct ring_lane lane;
};

static inline uint64_t pages(uint64_t bytes)
{
    return (bytes + SHM_PAGE_BYTES - 1) / SHM_PAGE_BYTES * SHM_PAGE_BYTES;
}

static inline uint32_t power_of_two(uint32_t least)
{
    uint32_t n = 1;
    while (n < least)
        n *= 2;
    return n;
}

/* The areas one after the other, without a page between them: what leaves one is in the next, or in a redzone. */
static inline uint64_t heap_plan(struct shm_lane *at, uint32_t kind, uint32_t slots, uint32_t slot_bytes, uint32_t reply_bytes)
{
    bool prompt = kind == SHM_LANE_KIND_PROMPT;
    uint32_t entries = power_of_two(slots);
    uint64_t end = SHM_PAGE_BYTES;
    *at = (struct shm_lane){.kind = kind, .slot_count = slots, .slot_bytes = slot_bytes, .reply_bytes = reply_bytes,
                            .submission_entries = entries, .completion_entries = prompt ? 2 * entries : entries};
    at->submissions_offset = end, end += pages((uint64_t)at->submission_entries * SHM_ENTRY_BYTES);
    at->completions_offset = end, end += pages((uint64_t)at->completion_entries * SHM_ENTRY_BYTES);
    at->slots_offset = end, end += pages((uint64_t)slots * slot_bytes);
    at->replies_offset = end, end += pages((uint64_t)slots * reply_bytes);
    if (prompt) {
        at->controls_offset = end, end += pages((uint64_t)slots * sizeof(struct shm_control));
        at->progress_offset = end, end += pages((uint64_t)slots * sizeof(struct shm_progress));
    }
    return end;
}

/* Both rings as they are when `position` entries have been through them. */
static inline void heap_age(struct heap_segment *s, uint64_t position)
{
    uint64_t rings[2] = {s->at.submissions_offset, s->at.completions_offset};
    uint32_t entries[2] = {s->at.submission_entries, s->at.completion_entries};
    s->lane.head = s->lane.tail = position;
    for (int r = 0; r < 2; r++)
        for (uint32_t i = 0; i < entries[r]; i++) {
            uint64_t before = (position + i) / entries[r];
            memcpy(s->base + rings[r] + ((position + i) & (entries[r] - 1)) * SHM_ENTRY_BYTES, &before, 8);
        }
}

static inline void heap_open(struct heap_segment *s, uint32_t kind, uint32_t slots, uint32_t slot_bytes,
                             uint32_t reply_bytes, int doorbell)
{
    s->size = heap_plan(&s->at, kind, slots, slot_bytes, reply_bytes);
    s->base = aligned_alloc(SHM_PAGE_BYTES, s->size);
    CHECK(s->base);
    memset(s->base, 0, s->size);
    memcpy(s->base + SHM_HEADER_LANES, &s->at, sizeof s->at);
    CHECK(ring_open(&s->lane, s->base, s->size, 0, doorbell));
    s->lane.in_flight = calloc(slots, 1);
    s->lane.batch = calloc(slots, sizeof *s->lane.batch);
    s->lane.streams = kind == SHM_LANE_KIND_PROMPT ? calloc(slots, sizeof *s->lane.streams) : NULL;
}

static inline void heap_close(struct heap_segment *s)
{
    free(s->lane.in_flight);
    free(s->lane.batch);
    free(s->lane.streams);
    free(s->base);
}

/* splitmix64: the same numbers everywhere for the same seed. */
static inline uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline uint32_t random_below(uint64_t *state, uint32_t bound)
{
    return (uint32_t)(random_next(state) % bound);
}

#endif
