"""data_report: what a validated data set holds, what was left out and why, and how it differs from the set before."""
