"""`python -m rushes.cli` is `rushes`."""

import sys

from rushes.cli.entry import main

sys.exit(main())
