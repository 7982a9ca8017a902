"""``python -m milsurv``."""

from milsurv.cli import main

if __name__ == "__main__":
    main()
