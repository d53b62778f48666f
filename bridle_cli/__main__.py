"""`python -m bridle_cli` is `bridle`."""

from __future__ import annotations

import sys

from bridle_cli.main import main

sys.exit(main())
