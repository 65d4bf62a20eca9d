"""Commands, one file each. None imports torch before it runs, so that ``--help`` is quick."""

import os

# Threads that wait at the end of a parallel loop sleep instead of spinning: beside another busy process
# on the same cores, spinning ones are preempted while the rest wait for them, and training all but stops.
# OpenMP reads this when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
