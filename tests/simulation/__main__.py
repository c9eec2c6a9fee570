"""Command line of the simulation: ``python -m tests.simulation``."""

from tests.simulation.play import main

if __name__ == "__main__":
    main()
