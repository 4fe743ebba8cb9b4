/* One lane of one session as a Python type: drain, complete, gather. The data thread alone calls it. */
#ifndef SHM_LANE_H
#define SHM_LANE_H

#include "stream.h"

typedef struct {
    PyObject_HEAD
    Py_buffer segment;      /* held from construction to close(): the mapping outlives every access */
    struct ring_lane ring;
    uint32_t finite;        /* mask of outputs that are promised to be numbers */
    bool open, reported;    /* reported: its fault has been handed out once */
    bool bells_due;         /* its doorbell is readable */
    bool paused;            /* nothing is to be handed out for now */
} Lane;

extern PyTypeObject *lane_type;

/* True, or false with an exception: the lane was closed. */
bool lane_ready(Lane *self);

/* A dict of counters by name; NULL with an exception. */
PyObject *counter_dict(const char *const *names, const uint64_t *values, size_t count);

/* Make the type, and add it to the module. */
int lane_add_type(PyObject *module);

#endif
