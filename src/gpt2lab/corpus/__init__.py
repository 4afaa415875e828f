"""Text to token shards. Plain data: this room never imports torch or the model."""
