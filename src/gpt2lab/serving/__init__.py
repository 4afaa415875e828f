"""Models over HTTP, in OpenAI's form: accounts, quotas, audit, and a page to explore them."""
