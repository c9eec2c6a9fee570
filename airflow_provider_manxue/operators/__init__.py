"""Operators of the sd2_manxue provider."""
