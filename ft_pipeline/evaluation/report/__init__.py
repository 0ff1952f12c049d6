"""The report: one HTML file that needs no network and no script, the same figures as JSON, in short as Markdown."""
