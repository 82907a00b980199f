"""`python -m lsrl.cli`."""

from lsrl.cli import main

if __name__ == "__main__":
    main()
