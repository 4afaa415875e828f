"""The command line: one thin file per verb. No logic lives here."""
