"""Commands, one file each. None imports torch before it runs, so that ``--help`` is quick."""

import os

# Threads that wait for each other at the end of every parallel loop sleep instead of spinning. Beside any other
# busy process on the same cores, spinning ones are preempted while the rest wait for them: one update of `tiny`
# took 100 s instead of 0.5 s on two cores. OpenMP reads this when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
