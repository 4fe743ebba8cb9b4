"""A pytest plugin (-p sanitized_core): shm_server._core is the file that SHM_CORE names, not the installed one."""

import importlib.util
import os
import sys

_spec = importlib.util.spec_from_file_location("shm_server._core", os.environ["SHM_CORE"])
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
sys.modules["shm_server._core"] = _module
