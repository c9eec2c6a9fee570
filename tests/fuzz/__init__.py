"""Coverage-guided fuzzing of everything that reads foreign input, and the properties that must hold."""
