"""Measuring a model: likelihood of texts, each number with its n, interval and protocol."""
