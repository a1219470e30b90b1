"""What is fast, measured: as ratios in one run, medians with their n and spread."""
