/* Where everything in a segment lies: the lane and its tensors, copied out of the header once, and checked.
 *
 * All pointer arithmetic on the segment starts from this private copy; the header is never asked again.
 */
#ifndef SHM_GEOMETRY_H
#define SHM_GEOMETRY_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "layout.h"

struct geometry {
    struct shm_lane lane;
    struct shm_tensor tensors[SHM_MAX_TENSORS]; /* the inputs, then the outputs */
    uint32_t part_bytes[SHM_MAX_TENSORS];       /* of one part of the symbolic dimension; of the row where there is none */
    uint32_t bound;                             /* of the inputs' symbolic dimension; 0 where there is none */
};

static inline uint32_t geometry_tensors(const struct geometry *at)
{
    return at->lane.input_count + at->lane.output_count;
}

/* How many bytes of a tensor's row count. */
static inline uint32_t geometry_valid_bytes(const struct geometry *at, uint32_t tensor, uint32_t extent)
{
    return at->tensors[tensor].symbolic ? extent * at->part_bytes[tensor] : at->part_bytes[tensor];
}

static inline bool geometry_area_fits(uint64_t offset, uint64_t count, uint64_t bytes, uint64_t size)
{
    return offset % SHM_PAGE_BYTES == 0 && offset >= SHM_PAGE_BYTES && offset <= size && count * bytes <= size - offset;
}

/* Bytes of one element; 0 for a datatype that there is not. */
static inline uint32_t geometry_element_bytes(uint16_t datatype)
{
    return datatype < sizeof shm_datatype_bytes ? shm_datatype_bytes[datatype] : 0;
}

/* Check tensor `index`, and note the bytes of its parts. */
static inline bool geometry_tensor_fits(struct geometry *at, uint32_t index, uint64_t size)
{
    const struct shm_tensor *tensor = &at->tensors[index];
    uint64_t part = geometry_element_bytes(tensor->datatype);
    if (!part || tensor->rank < 1 || tensor->rank > SHM_MAX_RANK || tensor->symbolic > 1)
        return false;
    for (uint32_t d = tensor->symbolic; d < tensor->rank; d++)
        if (!tensor->dims[d] || (part *= tensor->dims[d]) > SHM_MAX_SEGMENT_BYTES)
            return false;
    uint64_t row = tensor->symbolic ? part * tensor->dims[0] : part;
    row = (row + SHM_ROW_ALIGNMENT - 1) / SHM_ROW_ALIGNMENT * SHM_ROW_ALIGNMENT;
    at->part_bytes[index] = (uint32_t)part;
    return row && row == tensor->row_bytes && geometry_area_fits(tensor->offset, at->lane.slot_count, row, size);
}

/* What a stream lane is beyond a lane: bytes in, bytes out, and the words of "Streaming". */
static inline bool geometry_streams(const struct geometry *at, uint64_t size)
{
    bool texts = at->lane.input_count == 1 && at->lane.output_count == 1;
    for (uint32_t i = 0; texts && i < 2; i++)
        texts = at->tensors[i].datatype == SHM_DATATYPE_UINT8 && at->tensors[i].rank == 1 && at->tensors[i].symbolic &&
                at->tensors[i].dims[0] <= SHM_MAX_TEXT_BYTES;
    return texts && at->tensors[0].dims[0] <= at->tensors[1].dims[0] && /* an echo fits the reply */
           at->lane.completion_entries / 2 >= at->lane.slot_count &&
           geometry_area_fits(at->lane.controls_offset, at->lane.slot_count, sizeof(struct shm_control), size) &&
           geometry_area_fits(at->lane.progress_offset, at->lane.slot_count, sizeof(struct shm_progress), size);
}

static inline bool geometry_power_of_two(uint32_t n)
{
    return n && !(n & (n - 1));
}

/* Copy the geometry of a segment of `size` bytes out of `header`, its first page or a copy of that, and check it. False: it is not
 * one that a server may serve. */
static inline bool geometry_parse(struct geometry *at, const uint8_t *header, uint64_t size)
{
    memset(at, 0, sizeof *at);
    memcpy(&at->lane, header + SHM_HEADER_LANE, sizeof at->lane);
    memcpy(at->tensors, header + SHM_HEADER_TENSORS, sizeof at->tensors);
    const struct shm_lane *lane = &at->lane;
    if (lane->slot_count < 1 || lane->slot_count > SHM_MAX_SLOTS || !geometry_power_of_two(lane->submission_entries) ||
        !geometry_power_of_two(lane->completion_entries) || lane->submission_entries < lane->slot_count ||
        lane->completion_entries < lane->slot_count || lane->input_count < 1 || lane->input_count > SHM_MAX_TENSORS ||
        lane->output_count < 1 || lane->output_count > SHM_MAX_TENSORS - lane->input_count ||
        !geometry_area_fits(lane->submissions_offset, lane->submission_entries, SHM_ENTRY_BYTES, size) ||
        !geometry_area_fits(lane->completions_offset, lane->completion_entries, SHM_ENTRY_BYTES, size) ||
        !geometry_area_fits(lane->messages_offset, lane->slot_count, SHM_MESSAGE_BYTES, size))
        return false;
    for (uint32_t i = 0; i < geometry_tensors(at); i++) {
        if (!geometry_tensor_fits(at, i, size))
            return false;
        if (!at->tensors[i].symbolic || lane->protocol != SHM_PROTOCOL_CALL)
            continue;
        if (at->bound && at->bound != at->tensors[i].dims[0]) /* one symbolic dimension, one bound */
            return false;
        at->bound = at->tensors[i].dims[0];
    }
    if (lane->protocol == SHM_PROTOCOL_STREAM) {
        at->bound = at->tensors[0].dims[0];
        return geometry_streams(at, size);
    }
    return lane->protocol == SHM_PROTOCOL_CALL;
}

/* The geometry of the segment of `size` bytes at `base`, which somebody else may be writing. */
static inline bool geometry_read(struct geometry *at, const uint8_t *base, uint64_t size)
{
    return size >= SHM_PAGE_BYTES && (uintptr_t)base % SHM_PAGE_BYTES == 0 && geometry_parse(at, base, size);
}

#endif
