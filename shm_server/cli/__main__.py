import sys

from shm_server.cli import main

sys.exit(main())
