/* Spins and sleeps over many lanes with the GIL released, and hands out one drained lane at a time. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <structmember.h>

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lane.h"
#include "poller.h"

enum { POLLER_SPIN_HITS, POLLER_SPIN_MISSES, POLLER_PARKS, POLLER_WAKES, POLLER_COUNTERS };
static const char *const poller_counter_names[POLLER_COUNTERS] = {"spin_hits", "spin_misses", "parks", "wakes"};

enum {
    EVENTS = 64,             /* doorbells looked at per wake; the rest is found by the scan all the same */
    ROUNDS_PER_CLOCK = 64,   /* rounds of a spin between two looks at the clock */
    LOOK_NS = 10000000,      /* so often the doorbells are looked at by a poller that never sleeps */
    SPIN_FLOOR_NS = 2000,    /* a budget below this is not worth its clock reads: no spinning */
};

typedef struct {
    PyObject_HEAD
    Lane **lanes;
    size_t count, capacity;
    size_t cursor, looked;   /* the next lane of this pass over all lanes, and how many it has looked at */
    int epoll, wake_fd;
    _Atomic uint32_t woken;  /* wake() was called */
    int64_t budget_ns;       /* most that a spin may take; negative: without end */
    int64_t effective_ns;    /* what it may take now */
    bool bells_due;
    uint64_t looked_ns;      /* when the doorbells were looked at last */
    _Atomic uint64_t left_ns; /* when the data thread went away with work, CLOCK_MONOTONIC; 0 while it is here */
    uint64_t counters[POLLER_COUNTERS];
} Poller;


static int poller_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"spin_ns", NULL};
    Poller *self = (Poller *)op;
    long long spin_ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "L:Poller", names, &spin_ns))
        return -1;
    if (self->capacity) {
        PyErr_SetString(PyExc_TypeError, "a Poller is initialised once");
        return -1;
    }
    self->lanes = PyMem_Calloc(8, sizeof *self->lanes);
    if (!self->lanes) {
        PyErr_NoMemory();
        return -1;
    }
    self->capacity = 8;
    self->budget_ns = self->effective_ns = spin_ns;
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    self->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (self->epoll < 0 || self->wake_fd < 0 || epoll_ctl(self->epoll, EPOLL_CTL_ADD, self->wake_fd, &event) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}

static void poller_dealloc(PyObject *op)
{
    Poller *self = (Poller *)op;
    PyTypeObject *type = Py_TYPE(op);
    for (size_t i = 0; i < self->count; i++)
        Py_DECREF((PyObject *)self->lanes[i]);
    if (self->capacity) {
        close(self->epoll);
        close(self->wake_fd);
    }
    PyMem_Free(self->lanes);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(op);
    Py_DECREF(type);
}

static PyObject *poller_add(PyObject *op, PyObject *arg)
{
    Poller *self = (Poller *)op;
    if (!self->capacity || !Py_IS_TYPE(arg, lane_type)) {
        PyErr_SetString(PyExc_TypeError, "add takes a Lane");
        return NULL;
    }
    Lane *lane = (Lane *)arg;
    if (!lane_ready(lane))
        return NULL;
    if (self->count == self->capacity) {
        Lane **more = PyMem_Realloc(self->lanes, 2 * self->capacity * sizeof *more);
        if (!more)
            return PyErr_NoMemory();
        self->lanes = more;
        self->capacity *= 2;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = lane};
    if (lane->ring.doorbell >= 0 && epoll_ctl(self->epoll, EPOLL_CTL_ADD, lane->ring.doorbell, &event) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_INCREF(arg);
    self->lanes[self->count++] = lane;
    self->looked += self->looked > self->cursor; /* this pass has been at the end: the next one looks at it */
    Py_RETURN_NONE;
}

static void poller_unwatch(Poller *self, Lane *lane)
{
    /* ENOENT: unwatched before, at end of file */
    if (lane->ring.doorbell >= 0)
        (void)epoll_ctl(self->epoll, EPOLL_CTL_DEL, lane->ring.doorbell, NULL);
}

static PyObject *poller_remove(PyObject *op, PyObject *arg)
{
    Poller *self = (Poller *)op;
    for (size_t i = 0; i < self->count; i++) {
        if ((PyObject *)self->lanes[i] != arg)
            continue;
        poller_unwatch(self, self->lanes[i]);
        /* The order stays, and so does the place in it: who comes and goes must not have another one passed over. */
        size_t behind = (self->cursor + self->count - 1 - i) % self->count; /* lanes looked at since this one was */
        self->looked -= behind < self->looked;
        self->cursor -= i < self->cursor;
        if (self->cursor >= --self->count)
            self->cursor = 0;
        memmove(&self->lanes[i], &self->lanes[i + 1], (self->count - i) * sizeof *self->lanes);
        Py_DECREF(arg);
        Py_RETURN_NONE;
    }
    PyErr_SetString(PyExc_ValueError, "that lane was not added");
    return NULL;
}

/* Nothing to hand out for a lane whose batch is still being run, whose fault was handed out, or that was paused or closed. */
static bool poller_skips(const Lane *lane)
{
    return lane->ring.count || lane->reported || lane->paused || !lane->open;
}

static bool poller_pending(const Poller *self)
{
    for (size_t i = 0; i < self->count; i++)
        if (!poller_skips(self->lanes[i]) && (ring_peek(&self->lanes[i]->ring) || self->lanes[i]->ring.fault[0] ||
                                              ring_broken(&self->lanes[i]->ring)))
            return true;
    return atomic_load_explicit(&self->woken, memory_order_seq_cst);
}

/* Go on with the pass, to the next lane that has something. Each lane is looked at once a pass, and the passes go round: a
 * client that always has something waiting delays each of the others by one batch. */
static Lane *poller_scan(Poller *self, uint32_t limit)
{
    Lane *found = NULL;
    size_t at = self->cursor, looked = self->looked;
    for (; looked < self->count && !found; looked++) {
        Lane *lane = self->lanes[at];
        at = at + 1 < self->count ? at + 1 : 0;
        if (poller_skips(lane) || (!ring_drain(&lane->ring, limit) && !lane->ring.fault[0]))
            continue;
        lane->reported = lane->ring.fault[0];
        Py_INCREF((PyObject *)lane);
        found = lane;
    }
    self->cursor = at;
    self->looked = looked;
    return found;
}

/* Empty the doorbells that have something. A bell's bytes say nothing, so there is no hurry. */
static void poller_read_bells(Poller *self)
{
    self->bells_due = false;
    for (size_t i = 0; i < self->count; i++) {
        Lane *lane = self->lanes[i];
        if (!lane->bells_due || !lane->open)
            continue;
        lane->bells_due = false;
        uint8_t bytes[256];
        ssize_t got = recv(lane->ring.doorbell, bytes, sizeof bytes, MSG_DONTWAIT);
        /* End of file or reset: the control thread sees it too and removes the lane; until then do not wake for it. */
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            poller_unwatch(self, lane);
        for (ssize_t k = 0; k < got; k++)
            if (bytes[k] != SHM_BELL && !lane->ring.fault[0])
                snprintf(lane->ring.fault, sizeof lane->ring.fault, "byte %u on the doorbell is no bell", bytes[k]);
    }
}

/* Now and then while there is always work: a poller that never sleeps would never see a byte that is no bell. */
static void poller_look(Poller *self, uint64_t now)
{
    if (now - self->looked_ns < LOOK_NS)
        return;
    struct epoll_event events[EVENTS];
    int ready = epoll_wait(self->epoll, events, EVENTS, 0);
    for (int i = 0; i < ready; i++)
        if (events[i].data.ptr) /* NULL is wake(), which poller_park reads */
            ((Lane *)events[i].data.ptr)->bells_due = self->bells_due = true;
    self->looked_ns = now;
    if (self->bells_due)
        poller_read_bells(self);
}

/* Look until something is there or the budget is spent. Without the GIL. */
static bool poller_spin(Poller *self)
{
    uint64_t begun = 0;
    for (uint32_t round = 1; self->effective_ns; round++) {
        if (poller_pending(self)) {
            self->counters[POLLER_SPIN_HITS]++;
            self->effective_ns = self->budget_ns;
            return true;
        }
        ring_pause();
        if (round % ROUNDS_PER_CLOCK || self->effective_ns < 0)
            continue;
        uint64_t now = ring_now();
        if (!begun)
            begun = now;
        if (now - begun < (uint64_t)self->effective_ns)
            continue;
        self->counters[POLLER_SPIN_MISSES]++;
        self->effective_ns = self->effective_ns / 2 < SPIN_FLOOR_NS ? 0 : self->effective_ns / 2; /* it did not pay */
        return false;
    }
    return false;
}

static void poller_flag(const Poller *self, uint32_t parked)
{
    for (size_t i = 0; i < self->count; i++)
        if (self->lanes[i]->open)
            atomic_store_explicit(ring_flag(&self->lanes[i]->ring, SHM_HEADER_SERVER_PARKED), parked,
                                  memory_order_seq_cst);
}

/* Sleep until a doorbell or wake(). Without the GIL. Returns 0, or errno. */
static int poller_park(Poller *self)
{
    int error = 0;
    poller_flag(self, 1);
    /* Between our store of `server_parked` and the last look at the rings; the client has its fence between the
     * release of `turn` and its load of `server_parked`. Without it the look may pass the store: we see no entry,
     * the client sees 0, and we sleep on a submission that is there. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!poller_pending(self)) {
        struct epoll_event events[EVENTS];
        uint64_t slept = ring_now();
        int ready = epoll_wait(self->epoll, events, EVENTS, -1);
        error = ready < 0 && errno != EINTR ? errno : 0;
        self->counters[POLLER_PARKS]++;
        for (int i = 0; i < ready; i++) {
            uint64_t ignored;
            if (events[i].data.ptr)
                ((Lane *)events[i].data.ptr)->bells_due = self->bells_due = true;
            else if (read(self->wake_fd, &ignored, sizeof ignored) > 0)
                self->counters[POLLER_WAKES]++;
        }
        self->looked_ns = ring_now();
        if (self->budget_ns > 0 && self->looked_ns - slept < (uint64_t)self->budget_ns)
            self->effective_ns = self->budget_ns; /* a spin would have caught it */
    }
    poller_flag(self, 0); /* a client that still sees 1 rings once for nothing */
    return error;
}

/* A limit from 1 on as a C integer, or 0 with an exception. Also false for a Poller that was never initialised. */
static uint32_t poller_limit(const Poller *self, PyObject *limit)
{
    unsigned long most = PyLong_AsUnsignedLong(limit);
    if (most == (unsigned long)-1 && PyErr_Occurred())
        return 0;
    if (most == 0 || !self->capacity) {
        PyErr_SetString(PyExc_ValueError, most ? "the poller was not initialised" : "the limit is at least 1");
        return 0;
    }
    return most > UINT32_MAX ? UINT32_MAX : (uint32_t)most;
}

/* The data thread is here, or leaves. Another thread reads it, and nothing is ordered by it. */
static void poller_left(Poller *self, uint64_t now)
{
    atomic_store_explicit(&self->left_ns, now, memory_order_relaxed);
}

static PyObject *poller_hand_out(Poller *self, Lane *lane)
{
    /* The clock was read when the batch was taken; a lane that broke the protocol with a byte has none. */
    poller_left(self, lane->ring.count ? lane->ring.taken_ns : ring_now());
    return (PyObject *)lane;
}

static PyObject *poller_take(PyObject *op, PyObject *limit)
{
    uint32_t most = poller_limit((Poller *)op, limit);
    if (!most)
        return NULL;
    ((Poller *)op)->looked = 0;
    Lane *lane = poller_scan((Poller *)op, most);
    if (lane)
        return poller_hand_out((Poller *)op, lane);
    poller_left((Poller *)op, ring_now());
    Py_RETURN_NONE;
}

static PyObject *poller_sweep(PyObject *op, PyObject *limit)
{
    Poller *self = (Poller *)op;
    uint32_t most = poller_limit(self, limit);
    if (!most)
        return NULL;
    Lane *lane = poller_scan(self, most);
    if (lane)
        return poller_hand_out(self, lane);
    self->looked = 0;
    uint64_t now = ring_now();
    poller_look(self, now);
    poller_left(self, now);
    Py_RETURN_NONE;
}

static PyObject *poller_next(PyObject *op, PyObject *limit)
{
    Poller *self = (Poller *)op;
    uint32_t most = poller_limit(self, limit);
    if (!most)
        return NULL;
    poller_left(self, 0);
    for (;;) {
        self->looked = 0;
        /* The plain load first: an exchange takes the line for writing, each time round. */
        if (atomic_load_explicit(&self->woken, memory_order_relaxed) && atomic_exchange(&self->woken, 0)) {
            poller_left(self, ring_now());
            Py_RETURN_NONE;
        }
        Lane *lane = poller_scan(self, most);
        if (lane) {
            poller_look(self, lane->ring.taken_ns); /* the clock was read a moment ago */
            return poller_hand_out(self, lane);
        }
        if (self->bells_due)
            poller_read_bells(self);
        int error = 0;
        Py_BEGIN_ALLOW_THREADS
        if (!poller_spin(self))
            error = poller_park(self);
        Py_END_ALLOW_THREADS
        if (error) {
            errno = error;
            return PyErr_SetFromErrno(PyExc_OSError);
        }
    }
}

static PyObject *poller_wake(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Poller *self = (Poller *)op;
    uint64_t one = 1;
    if (!self->capacity) {
        PyErr_SetString(PyExc_ValueError, "the poller was not initialised");
        return NULL;
    }
    atomic_store_explicit(&self->woken, 1, memory_order_seq_cst);
    /* EAGAIN: the counter is full, so it is readable, which is all that is wanted. */
    if (write(self->wake_fd, &one, sizeof one) < 0 && errno != EAGAIN)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *poller_counters(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return counter_dict(poller_counter_names, ((Poller *)op)->counters, POLLER_COUNTERS);
}

static PyObject *poller_get_busy_ns(PyObject *op, void *Py_UNUSED(closure))
{
    uint64_t left = atomic_load_explicit(&((Poller *)op)->left_ns, memory_order_relaxed), now = ring_now();
    return PyLong_FromUnsignedLongLong(left && left < now ? now - left : 0);
}

static PyGetSetDef poller_getset[] = {
    {"busy_ns", poller_get_busy_ns, NULL,
     "nanoseconds since next, take or sweep returned; 0 while next waits. Any thread", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef poller_methods[] = {
    {"add", poller_add, METH_O, "Serve this lane too. Data thread."},
    {"remove", poller_remove, METH_O, "Stop serving this lane. Data thread."},
    {"next", poller_next, METH_O,
     "Wait for work: a Lane with a drained batch of up to `limit` requests, or with a fault (op 0); None after wake()."},
    {"take", poller_take, METH_O, "Like next, but None at once when nothing is pending."},
    {"sweep", poller_sweep, METH_O,
     "Go on with the pass that next or take began: each lane once, and None at its end; then the next pass begins."},
    {"wake", poller_wake, METH_NOARGS, "Make next() return None soon. Any thread."},
    {"counters", poller_counters, METH_NOARGS, "The poller's counters by name."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot poller_slots[] = {
    {Py_tp_doc, "Poller(spin_ns): spin up to spin_ns (negative: without end, 0: never), then sleep, over many lanes."},
    {Py_tp_init, poller_init}, {Py_tp_dealloc, poller_dealloc}, {Py_tp_methods, poller_methods},
    {Py_tp_getset, poller_getset}, {0, NULL},
};

static PyType_Spec poller_spec = {"shm_server._core.Poller", sizeof(Poller), 0, Py_TPFLAGS_DEFAULT, poller_slots};

int poller_add_type(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &poller_spec, NULL);
    int added = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
    Py_XDECREF(type);
    return added;
}
