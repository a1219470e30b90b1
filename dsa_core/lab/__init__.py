"""The laboratory: models, data, runs, records, reports and the command line around the core."""
