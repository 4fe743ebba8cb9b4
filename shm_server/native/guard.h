/* Guarded mappings: what a peer takes away under us reads as zeros, and is not our end.
 *
 * A client holds the descriptor of its segment. Where it is not sealed, ftruncate takes the pages from our mapping as well,
 * and so does a hole where tmpfs has no room left to fill it; the next touch is a SIGBUS, on whichever thread happens to
 * touch: the data thread, the control thread, one of a framework's pool. The handler maps zero pages over the whole mapping
 * and sets its `broken`; the touch is done again and goes through. Every other SIGBUS goes where it went before.
 * Wayland's compositors do the same for their clients' buffers (wayland-shm.c).
 *
 * A thread that blocks SIGBUS cannot be guarded: the kernel ends the process.
 */
#ifndef SHM_GUARD_H
#define SHM_GUARD_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct guard;

/* Guard `size` bytes from `base` on, page-aligned and mapped. NULL with errno: there is no unguarded way to go on.
 * EBUSY: too many others have put a handler of their own over ours. */
struct guard *guard_add(void *base, size_t size);

/* Before the mapping is unmapped: from here on nobody maps anything there. The caller has seen to it that nobody touches
 * the mapping any more. */
void guard_remove(struct guard *guard);

/* Nonzero once the mapping was replaced by zeros. Valid until guard_remove. */
const _Atomic uint32_t *guard_broken(const struct guard *guard);

/* `broken` of the guarded mapping around `address`, or NULL. */
const _Atomic uint32_t *guard_broken_at(const void *address);

#endif
