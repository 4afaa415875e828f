"""Telling texts of known models from people's, with a stated false-positive rate, and why."""
