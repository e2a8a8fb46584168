"""`python -m cgru` is the command `cgru`."""

from cgru.cli import main

raise SystemExit(main())
