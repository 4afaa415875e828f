"""Which language a text is in."""


def detect_language(text: str) -> str:
    """Two letters, or "" where the text is too short or too mixed to tell."""
    from resiliparse.parse.lang import detect_fast

    language = detect_fast(text[:20_000])[0]
    return "" if language == "unknown" else str(language)
