"""Time on the wall and of the processors, and their sums."""

import time

from dsa_core.training.stopwatch import Stopwatch, total_time


def test_sleeping_takes_time_and_working_the_processor() -> None:
    watch = Stopwatch()
    time.sleep(0.3)
    spent = watch.read()
    assert spent["processor_seconds"] < 0.2 < 0.3 <= spent["seconds"]
    watch = Stopwatch()
    while watch.read()["processor_seconds"] < 0.05:
        sum(range(1000))
    assert watch.read()["seconds"] > 0.04


def test_parts_of_older_checkpoints_have_no_processor_seconds() -> None:
    parts = [{"seconds": 2.0, "loss": 7.0}, {"seconds": 3.0, "processor_seconds": 1.0}]
    assert total_time(parts) == {"seconds": 5.0, "processor_seconds": 1.0}
