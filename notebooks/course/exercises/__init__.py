"""Exercises of the course: `core` grades, `nNN` holds the checks and answers of notebook NN."""

from course.exercises.core import grade, predict, try_it
