"""What a wait costs, beside what a user would take instead: ``make bench``."""
