"""Measures of what was generated or reconstructed."""
