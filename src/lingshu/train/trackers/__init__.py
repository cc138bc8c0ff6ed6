"""Experiment trackers: each file is a tracker that `report_to` can name.

A file has `open_run(run: TrackedRun)`, a context manager that gives an OpenTracker, and `LIBRARY`,
the module that it needs (`EXTRA` is the extra that installs it, if not `trackers`). See
train/log.py.
"""
