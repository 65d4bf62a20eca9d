"""Commands, one file each. None imports torch before it runs, so that ``--help`` is quick."""
