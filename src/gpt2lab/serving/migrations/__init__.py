"""How the database of accounts came to its form, step by step."""
