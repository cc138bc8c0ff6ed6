"""Evaluation reports: tables, HTML pages, plots and the sample browser."""
