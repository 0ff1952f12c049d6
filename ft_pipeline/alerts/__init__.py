"""Telling people by webhook or e-mail that a run has failed, or that a model was published."""
