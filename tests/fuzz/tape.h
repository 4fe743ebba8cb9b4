/* A tape: the bytes that decide everything that a fuzzer does, so that a file is a run, and a byte of it a choice.
 *
 * Behind its end a tape reads as zeros; who goes on for as long as he likes asks tape_over.
 */
#ifndef TAPE_H
#define TAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tape {
    const uint8_t *bytes;
    size_t size, at;
};

static inline bool tape_over(const struct tape *tape)
{
    return tape->at >= tape->size;
}

static inline uint8_t tape_byte(struct tape *tape)
{
    return tape_over(tape) ? 0 : tape->bytes[tape->at++];
}

static inline uint64_t tape_word(struct tape *tape, int bytes)
{
    uint64_t word = 0;
    while (bytes--)
        word = word << 8 | tape_byte(tape);
    return word;
}

/* A number below `bound`. */
static inline uint32_t tape_below(struct tape *tape, uint32_t bound)
{
    return (uint32_t)(tape_word(tape, bound <= 256 ? 1 : 4) % bound);
}

/* Numbers that break things, more often than chance would have them. */
static inline uint64_t tape_nasty(struct tape *tape)
{
    static const uint64_t edges[] = {0, 1, 2, 3, 4, 7, 8, 63, 64, 255, 256, 3071, 3072, 3073, 4095, 4096, 65535, 65536,
                                     INT32_MAX, UINT32_MAX - 63, UINT32_MAX, 1ull << 32, INT64_MAX, UINT64_MAX - 4095,
                                     UINT64_MAX - 3, UINT64_MAX - 1, UINT64_MAX};
    uint32_t which = tape_below(tape, 3 * sizeof edges / sizeof *edges / 2); /* one in three is any number */
    return which < sizeof edges / sizeof *edges ? edges[which] : tape_word(tape, 8);
}

#endif
