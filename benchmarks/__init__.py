"""Cost of a wait, compared with the alternatives: ``make bench``."""
