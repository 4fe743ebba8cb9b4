/* shm_server._core.Mapping: the pages of a segment, shared, writable, guarded (guard.h); a buffer.
 *
 * A large segment takes the kernel a tenth of a second to map, and as long to give back. So all of that is done without
 * the GIL, and in pieces: while the kernel fills pages in it holds a lock that every mmap of the process waits for, malloc's
 * and a framework's too.
 */
#include "mapping.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>

#include "guard.h"

#ifndef MADV_POPULATE_WRITE /* Linux 5.14 */
#define MADV_POPULATE_WRITE 23
#endif

enum { PAGE = 4096, PIECE = 1 << 20 };

typedef struct {
    PyObject_HEAD
    uint8_t *base;          /* NULL: not initialised, or closed */
    uint8_t *again;         /* the same pages once more, never touched: there still when zeros lie over the others */
    size_t size;
    struct guard *guard;
    Py_ssize_t exports;     /* buffers that are held */
} Mapping;

/* madvise, piece by piece. 0, or errno. */
static int advise(uint8_t *base, size_t size, int advice)
{
    for (size_t at = 0; at < size; at += PIECE)
        while (madvise(base + at, size - at < PIECE ? size - at : PIECE, advice) < 0)
            if (errno != EINTR)
                return errno;
    return 0;
}

/* Have every page there: no request pays for a page fault. Nobody else has the memory yet. 0, or errno. */
static int populate(uint8_t *base, size_t size)
{
    int error = advise(base, size, MADV_POPULATE_WRITE);
    if (error != EINVAL)
        return error;
    for (size_t at = 0; at < size; at += PAGE) /* an older kernel */
        atomic_fetch_or((_Atomic uint8_t *)(base + at), 0);
    return 0;
}

/* Without the GIL. 0, or errno. */
static int map(Mapping *self, int fd)
{
    void *maps[2] = {MAP_FAILED, MAP_FAILED};
    for (int i = 0; i < 2; i++)
        if ((maps[i] = mmap(NULL, self->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED)
            break;
    int error = maps[0] == MAP_FAILED || maps[1] == MAP_FAILED ? errno : 0;
    if (!error && !(self->guard = guard_add(maps[0], self->size)))
        error = errno;
    if (!error && !(error = populate(maps[0], self->size))) {
        self->base = maps[0];
        self->again = maps[1];
        return 0;
    }
    if (self->guard)
        guard_remove(self->guard);
    for (int i = 0; i < 2; i++)
        if (maps[i] != MAP_FAILED)
            munmap(maps[i], self->size);
    return error;
}

/* Needs no GIL. Nobody touches the memory any more. */
static void unmap(Mapping *self)
{
    uint8_t *base = self->base;
    if (!base)
        return;
    self->base = NULL; /* first: without the GIL another thread may ask for a buffer */
    guard_remove(self->guard);
    munmap(base, self->size);
    munmap(self->again, self->size);
}

static int mapping_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fd", "size", NULL};
    Mapping *self = (Mapping *)op;
    int fd, error;
    Py_ssize_t size;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "in:Mapping", names, &fd, &size))
        return -1;
    if (self->size || size < 1) {
        PyErr_SetString(PyExc_ValueError, self->size ? "a Mapping is initialised once" : "a mapping has a byte at least");
        return -1;
    }
    self->size = (size_t)size;
    Py_BEGIN_ALLOW_THREADS
    error = map(self, fd);
    Py_END_ALLOW_THREADS
    if (!error)
        return 0;
    errno = error;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static void mapping_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    unmap((Mapping *)op);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(op);
    Py_DECREF(type);
}

static bool mapping_ready(Mapping *self)
{
    if (self->base)
        return true;
    PyErr_SetString(PyExc_ValueError, "the mapping is closed");
    return false;
}

static PyObject *mapping_collapse(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Mapping *self = (Mapping *)op;
    int error;
    if (!mapping_ready(self))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    error = advise(self->again, self->size, MADV_REMOVE);
    Py_END_ALLOW_THREADS
    if (!error)
        Py_RETURN_NONE;
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *mapping_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Mapping *self = (Mapping *)op;
    if (self->exports) {
        PyErr_Format(PyExc_BufferError, "%zd buffers of the mapping are held", self->exports);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    unmap(self);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *mapping_get_broken(PyObject *op, void *Py_UNUSED(closure))
{
    Mapping *self = (Mapping *)op;
    return mapping_ready(self) ? PyBool_FromLong(atomic_load(guard_broken(self->guard)) != 0) : NULL;
}

static int mapping_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    Mapping *self = (Mapping *)op;
    if (!mapping_ready(self) || PyBuffer_FillInfo(view, op, self->base, (Py_ssize_t)self->size, 0, flags) < 0)
        return -1;
    self->exports++;
    return 0;
}

static void mapping_releasebuffer(PyObject *op, Py_buffer *Py_UNUSED(view))
{
    ((Mapping *)op)->exports--;
}

static PyMethodDef mapping_methods[] = {
    {"collapse", mapping_collapse, METH_NOARGS,
     "Give every page back, whoever else has the memory mapped: it reads as zeros from here on, for everybody."},
    {"close", mapping_close, METH_NOARGS, "Unmap. BufferError while a buffer is held: it would dangle."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef mapping_getset[] = {
    {"broken", mapping_get_broken, NULL, "did a peer take pages away, so that zeros lie over the mapping?", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot mapping_slots[] = {
    {Py_tp_doc, "Mapping(fd, size): the first `size` bytes of shared memory, every page populated; a writable buffer.\n\n"
                "Whoever has the descriptor can take pages away: then zeros lie over all of it. Nobody is harmed."},
    {Py_tp_init, mapping_init}, {Py_tp_dealloc, mapping_dealloc}, {Py_tp_methods, mapping_methods},
    {Py_tp_getset, mapping_getset}, {Py_bf_getbuffer, mapping_getbuffer},
    {Py_bf_releasebuffer, mapping_releasebuffer}, {0, NULL},
};

static PyType_Spec mapping_spec = {"shm_server._core.Mapping", sizeof(Mapping), 0, Py_TPFLAGS_DEFAULT, mapping_slots};

int mapping_add_type(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &mapping_spec, NULL);
    int added = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
    Py_XDECREF(type);
    return added;
}
