"""``python -m pyrovae``, and ``torchrun -m pyrovae`` for several processes."""

from pyrovae.cli import main

if __name__ == "__main__":
    main()
