"""Figures of the course: pure functions that return a matplotlib `Figure`; one family a file."""
