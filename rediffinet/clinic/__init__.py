"""Many cases: cohorts."""
