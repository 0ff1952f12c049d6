"""Training again when new data has come: what is there now, what was trained on, and whether a run is due."""
