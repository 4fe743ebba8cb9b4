/* The Python type Mapping: see mapping.c. */
#ifndef SHM_MAPPING_H
#define SHM_MAPPING_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

/* Add the type to the module. -1 with an exception. */
int mapping_add_type(PyObject *module);

#endif
