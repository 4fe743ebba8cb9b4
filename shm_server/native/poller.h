/* The Poller as a Python type. */
#ifndef SHM_POLLER_H
#define SHM_POLLER_H

/* Make the type, and add it to the module. */
int poller_add_type(PyObject *module);

#endif
