"""``python -m pavdit.cli`` is ``pavdit``."""

import sys

from pavdit.cli.main import main

sys.exit(main())
