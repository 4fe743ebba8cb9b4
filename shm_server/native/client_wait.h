/* How threads wait at one client's lane, and how an event loop does.
 *
 * The GIL is the lock: everything private is touched with it held. Without it a thread does three things, and touches nothing but the
 * segment, atomics, and what it has copied before: it polls the entry at the completion ring's head, sleeps on the doorbell, or sleeps on
 * a futex of its own.
 *
 * Leader and followers. Of the threads that wait, one leads: it polls, then sleeps on the doorbell. The others follow: each sleeps on its
 * own word. Why nobody sleeps on something that is there:
 *
 *   - While there is a leader, nobody else consumes completions. It looked at the ring with the GIL held and found nothing at `head`; so
 *     the next completion comes to `head`, and by client_arm's argument it is seen before the leader sleeps, or it rings.
 *   - Whoever consumes completions wakes the follower of each.
 *   - Whoever stops waiting, for whatever reason, looks whether anybody leads now, and wakes a follower otherwise. That one consumes what
 *     has come meanwhile, then leads, or has what it waited for and looks in turn.
 *   - A slot that becomes free wakes one who waits for a slot, for each slot one. Whoever has been woken and does not take it wakes
 *     the next.
 *   - Somebody else may wake the leader too, for a slot or for the end: through its word while it polls, through an eventfd while it sleeps.
 *
 * A lane of an event loop is `evented`: nobody waits in here, and events() says of which slots there is news.
 */
#ifndef SHM_CLIENT_WAIT_H
#define SHM_CLIENT_WAIT_H

#include <Python.h>

#include <linux/futex.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client.h"

enum {
    LOOKS_PER_CLOCK = 32,      /* of a spin, between two looks at the clock: a look with its pause takes 10 to 60 ns */
    SLICE_NS = 10000000,       /* so long a spin goes on before the doorbell and Python's signals are looked at */
    IDLE_NS = 1000000,         /* a lane that was not used for so long looks at its doorbell first: its server may be gone */
    LARGE_BYTES = 1 << 16,     /* what takes longer to copy than it takes to release the GIL */
    MISS_FACTOR = 16,          /* as in the Go client (spin.go): a miss costs a budget, a hit saves a wake-up, a twentieth of it */
    MAX_PENALTY = 1024,
};

/* What a method answers instead of a slot. */
enum { LATE = -1, ENDED = -2, DRAINING = -3, LOST_LATE = -4, LOST = -5 };

#define ANY UINT32_MAX /* the slot of one who waits for a free one */

/* A thread that waits, on its own stack. */
struct waiter {
    _Atomic uint32_t woken;
    uint32_t slot;
    struct waiter *next; /* follower that came later */
};

enum { REQUESTS, SPIN_HITS, SPIN_MISSES, PARKS, BELLS_SENT, COUNTERS }; /* named in client.c */

typedef struct {
    PyObject_HEAD
    struct client_lane lane;
    Py_buffer segment;
    bool open;                  /* the segment's buffer is held */
    bool started;               /* initialised */
    bool evented;
    bool hung_up;               /* what is copied from now on may be zeros: see layout.md, "The doorbell" */
    _Atomic uint32_t over;      /* the session has ended */
    int doorbell, wake_fd;
    int error;                  /* errno of the doorbell; 0 = end of file, a farewell, or none */
    struct waiter *leader;
    struct waiter *followers;   /* in the order in which they came */
    uint32_t claiming;          /* who waits for a slot, the leader too */
    uint32_t *news, news_count; /* of an evented lane: slots, each once */
    uint8_t *in_news;           /* [slot_count] */
    uint8_t farewell[256];      /* what came behind the last bell */
    uint32_t farewell_bytes;
    uint64_t used_ns;
    int64_t budget_ns;          /* most that a spin may take; negative: without end */
    uint64_t penalty, skip;     /* calls that do not spin after one that spun in vain */
    uint64_t counters[COUNTERS];
} ClientLane;

/* ---- waking ---- */

static void futex_wait(_Atomic uint32_t *word, uint64_t timeout_ns)
{
    struct timespec timeout = {(time_t)(timeout_ns / 1000000000), (long)(timeout_ns % 1000000000)};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 0, timeout_ns ? &timeout : NULL, NULL, 0);
}

/* With the GIL: a waiter needs it to leave, so its word is there still. */
static void wake(ClientLane *self, struct waiter *waiter)
{
    if (!waiter || atomic_exchange_explicit(&waiter->woken, 1, memory_order_seq_cst))
        return;
    uint64_t one = 1;
    if (waiter != self->leader)
        syscall(SYS_futex, &waiter->woken, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    else if (write(self->wake_fd, &one, sizeof one) < 0)
        return; /* EAGAIN: the counter is full, so it is readable, which is all that is wanted */
}

static struct waiter *asleep(struct waiter *waiter)
{
    while (waiter && atomic_load_explicit(&waiter->woken, memory_order_relaxed))
        waiter = waiter->next;
    return waiter;
}

/* Somebody is to lead. */
static void wake_follower(ClientLane *self)
{
    if (!self->leader)
        wake(self, asleep(self->followers));
}

/* A slot is free. */
static void wake_claimer(ClientLane *self)
{
    if (self->leader && self->leader->slot == ANY && !atomic_load_explicit(&self->leader->woken, memory_order_relaxed)) {
        wake(self, self->leader);
        return;
    }
    struct waiter *waiter = asleep(self->followers);
    while (waiter && waiter->slot != ANY)
        waiter = asleep(waiter->next);
    wake(self, waiter);
}

static void release(ClientLane *self, uint32_t slot)
{
    client_release(&self->lane, slot);
    if (self->claiming)
        wake_claimer(self);
}

/* There is news of a slot. */
static void tell(ClientLane *self, uint32_t slot)
{
    if (self->lane.calls[slot].state == CLIENT_FREE) { /* it was abandoned */
        if (self->claiming)
            wake_claimer(self);
    } else if (!self->evented) {
        wake(self, self->lane.calls[slot].waiter);
    }
    if (self->evented && !self->in_news[slot]) {
        self->in_news[slot] = 1;
        self->news[self->news_count++] = slot;
    }
}

/* ---- the end ---- */

/* The session is over: every call in flight fails, and everybody who waits is woken. */
static void end(ClientLane *self)
{
    if (atomic_exchange_explicit(&self->over, 1, memory_order_seq_cst))
        return;
    for (uint32_t slot = 0; slot < self->lane.at.lane.slot_count; slot++) {
        struct client_call *call = &self->lane.calls[slot];
        if (call->state == CLIENT_ABANDONED)
            client_release(&self->lane, slot);
        else if (call->state == CLIENT_IN_FLIGHT)
            call->state = CLIENT_FAILED;
        else
            continue;
        tell(self, slot);
    }
    self->lane.in_flight = 0;
    wake(self, self->leader);
    for (struct waiter *waiter = asleep(self->followers); waiter; waiter = asleep(waiter->next))
        wake(self, waiter);
}

/* Consume what has come. */
static void reap(ClientLane *self)
{
    uint32_t slot;
    int took;
    while (!atomic_load_explicit(&self->over, memory_order_relaxed) && (took = client_take(&self->lane, &slot)))
        if (took > 0)
            tell(self, slot);
        else
            end(self);
}

/* Read the bells; anything else ends the session, once what was answered is delivered. */
static void read_doorbell(ClientLane *self)
{
    if (atomic_load_explicit(&self->over, memory_order_relaxed))
        return;
    uint8_t bytes[sizeof self->farewell];
    ssize_t got = recv(self->doorbell, bytes, sizeof bytes, MSG_DONTWAIT);
    ssize_t bells = 0;
    while (bells < got && bytes[bells] == SHM_BELL)
        bells++;
    if ((got < 0 && (errno == EAGAIN || errno == EINTR)) || (got > 0 && bells == got)) {
        if (got > 0)
            wake(self, self->leader); /* the bell may have been for one who sleeps still */
        return;
    }
    self->error = got < 0 ? errno : 0;
    if (got > bells) {
        self->farewell_bytes = (uint32_t)(got - bells);
        memcpy(self->farewell, bytes + bells, self->farewell_bytes);
    }
    reap(self);
    end(self);
}

/* ---- waiting ---- */

/* How long the call that begins now may spin. */
static int64_t spin_budget(const ClientLane *self)
{
    return self->skip ? 0 : self->budget_ns;
}

static void spin_missed(ClientLane *self)
{
    self->counters[SPIN_MISSES]++;
    uint64_t penalty = self->penalty * MISS_FACTOR;
    self->penalty = self->skip = penalty < 1 ? 1 : penalty > MAX_PENALTY ? MAX_PENALTY : penalty;
}

static void spin_hit(ClientLane *self)
{
    self->counters[SPIN_HITS]++;
    self->penalty /= 2;
}

/* A call that slept and was answered within the budget: the next ones may spin again soon. */
static void slept(ClientLane *self, uint64_t began_ns)
{
    if (self->skip && (self->budget_ns < 0 || ring_now() - began_ns < (uint64_t)self->budget_ns))
        self->skip--;
}

static bool called(const ClientLane *self, const struct waiter *waiter)
{
    return atomic_load_explicit(&waiter->woken, memory_order_acquire) ||
           atomic_load_explicit(&self->over, memory_order_relaxed);
}

/* Without the GIL. Poll until there is an entry at `head`, or somebody calls (true), or it is `until` (false). */
static bool poll_ring(const ClientLane *self, const struct waiter *waiter, uint64_t head, uint64_t until)
{
    for (uint32_t looks = 1;; looks++) {
        if (client_published(&self->lane, head))
            return true;
        ring_pause();
        if (looks % LOOKS_PER_CLOCK == 0) {
            if (called(self, waiter))
                return true;
            if (ring_now() >= until)
                return false;
        }
    }
}

/* Without the GIL. Sleep until a bell, somebody calls, a signal, or `deadline`. */
static void park(ClientLane *self, const struct waiter *waiter, uint64_t head, uint64_t deadline)
{
    uint64_t ignored, now = deadline ? ring_now() : 0, left = deadline > now ? deadline - now : 0;
    struct timespec timeout = {(time_t)(left / 1000000000), (long)(left % 1000000000)};
    struct pollfd fds[2] = {{.fd = self->doorbell, .events = POLLIN}, {.fd = self->wake_fd, .events = POLLIN}};
    if (!client_arm(&self->lane, head) && !called(self, waiter))
        ppoll(fds, 2, deadline ? &timeout : NULL, NULL);
    client_disarm(&self->lane);
    if (fds[1].revents && read(self->wake_fd, &ignored, sizeof ignored) < 0)
        return; /* EAGAIN: it was for the leader before us */
}

/* `first`: the waiter has just come. Others that wait for a slot stand before it, and for each free one one of them has been woken. */
static bool ready(const ClientLane *self, uint32_t slot, bool first)
{
    if (slot == ANY)
        return self->lane.free_count > (first ? self->claiming - 1 : 0) ||
               atomic_load_explicit(&self->over, memory_order_relaxed);
    return client_news(&self->lane, slot);
}

/* `spin_ns` is what is left of the budget, and is spent here. */
static void lead(ClientLane *self, struct waiter *waiter, int64_t *spin_ns, uint64_t deadline)
{
    uint64_t head = self->lane.head, now = ring_now();
    bool spinning = *spin_ns != 0, endless = *spin_ns < 0, found = false;
    uint64_t slice = endless || *spin_ns > SLICE_NS ? SLICE_NS : (uint64_t)*spin_ns;
    uint64_t until = deadline && deadline < now + slice ? deadline : now + slice;
    self->leader = waiter;
    Py_BEGIN_ALLOW_THREADS
    if (spinning)
        found = poll_ring(self, waiter, head, until);
    else
        park(self, waiter, head, deadline);
    Py_END_ALLOW_THREADS
    self->leader = NULL;
    if (!spinning) {
        self->counters[PARKS]++;
    } else if (found) {
        spin_hit(self);
        return;
    } else if (!endless && (*spin_ns -= (int64_t)slice) <= 0) {
        *spin_ns = 0;
        spin_missed(self);
    }
    read_doorbell(self);
}

static void follow(ClientLane *self, struct waiter *waiter, uint64_t deadline)
{
    struct waiter **at = &self->followers;
    while (*at)
        at = &(*at)->next;
    waiter->next = NULL;
    *at = waiter;
    if (waiter->slot != ANY)
        self->lane.calls[waiter->slot].waiter = waiter;
    uint64_t now = ring_now();
    Py_BEGIN_ALLOW_THREADS
    if (!deadline || deadline > now)
        futex_wait(&waiter->woken, deadline ? deadline - now : 0);
    Py_END_ALLOW_THREADS
    if (waiter->slot != ANY)
        self->lane.calls[waiter->slot].waiter = NULL;
    for (at = &self->followers; *at != waiter;)
        at = &(*at)->next;
    *at = waiter->next;
}

/* Wait until there is news of the slot, or for ANY a free one. 1: there is; 0: it is `deadline`, which is 0 for none, and a past one is
 * asked once; -1: a signal's handler raised. */
static int wait_for(ClientLane *self, uint32_t slot, uint64_t deadline, uint64_t began_ns)
{
    struct waiter waiter = {.slot = slot};
    int64_t spin_ns = spin_budget(self);
    bool unspun = !spin_ns, first = true;
    int answer;
    self->claiming += slot == ANY;
    for (;;) {
        if (!self->leader)
            reap(self);
        if ((answer = ready(self, slot, first)))
            break;
        first = false;
        if (deadline && ring_now() >= deadline)
            break;
        atomic_store_explicit(&waiter.woken, 0, memory_order_relaxed); /* with the GIL, and not yet where others see it */
        if (self->leader)
            follow(self, &waiter, deadline);
        else
            lead(self, &waiter, &spin_ns, deadline);
        if (PyErr_CheckSignals() < 0) {
            answer = -1;
            break;
        }
    }
    if (unspun && answer > 0)
        slept(self, began_ns);
    self->claiming -= slot == ANY;
    if (slot == ANY && answer <= 0 && self->claiming && self->lane.free_count)
        wake_claimer(self); /* one that was meant for us */
    wake_follower(self);
    return answer;
}

/* ---- slots ---- */

/* A slot, or LATE, ENDED, DRAINING; -100: an exception is set. */
enum { RAISED = -100 };

static int64_t claim(ClientLane *self, uint64_t deadline, uint64_t now)
{
    if (now - self->used_ns > IDLE_NS && !self->leader && !self->evented) /* a leader looks itself, and so does a loop */
        read_doorbell(self);
    self->used_ns = now;
    if (!atomic_load_explicit(&self->over, memory_order_relaxed) && self->lane.free_count <= self->claiming) {
        int waited = wait_for(self, ANY, deadline, now);
        if (waited < 0)
            return RAISED;
        if (!waited)
            return LATE;
    }
    if (atomic_load_explicit(&self->over, memory_order_relaxed))
        return ENDED;
    if (client_draining(&self->lane)) {
        if (!self->evented)
            read_doorbell(self); /* it may have said more by now: that the model has moved */
        if (self->claiming)
            wake_claimer(self);
        return atomic_load_explicit(&self->over, memory_order_relaxed) ? ENDED : DRAINING;
    }
    int64_t slot = client_claim(&self->lane);
    return slot < 0 ? LATE : slot;
}

static uint64_t server_time(const ClientLane *self, uint64_t ours)
{
    int64_t ahead = self->lane.ahead_ns;
    if (ahead < 0)
        return ours > (uint64_t)-ahead ? ours - (uint64_t)-ahead : 0;
    return ours > INT64_MAX - (uint64_t)ahead ? INT64_MAX : ours + (uint64_t)ahead;
}

static void submit(ClientLane *self, uint32_t slot, struct shm_submission s, uint64_t deadline, uint64_t now)
{
    s.submitted = server_time(self, now);
    s.deadline = deadline ? server_time(self, deadline) : 0;
    if (deadline && !s.deadline)
        s.deadline = 1; /* 0 is none */
    client_submit(&self->lane, slot, s);
    self->counters[REQUESTS]++;
}

static void ring(ClientLane *self)
{
    const uint8_t bell = SHM_BELL;
    if (!client_bell_due(&self->lane))
        return;
    self->counters[BELLS_SENT]++;
    /* EAGAIN: bells are waiting in the socket already. Any other error is a server that went away, which its reader learns. */
    if (send(self->doorbell, &bell, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        return;
}

/* Give up a call. Where it is in flight, its slot stays quarantined until the server has completed it. */
static void abandon(ClientLane *self, uint32_t slot)
{
    struct client_call *call = &self->lane.calls[slot];
    if (call->state != CLIENT_IN_FLIGHT) {
        release(self, slot);
        return;
    }
    client_cancel(&self->lane, slot);
    call->state = CLIENT_ABANDONED;
}

#endif
