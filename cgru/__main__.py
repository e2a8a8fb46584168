"""`python -m cgru` is the command `cgru`."""

from cgru.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
