"""One script per job. `python jobs/JOB.py ...` and `darkroom JOB ...` are the same thing."""
