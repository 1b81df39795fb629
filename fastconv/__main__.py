"""`python -m fastconv`: the command line."""

from fastconv.cli import main

raise SystemExit(main())
