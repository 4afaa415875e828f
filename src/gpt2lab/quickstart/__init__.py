"""The whole path on one machine in minutes: text, vocabulary, model, measurement, report."""
