"""Carries migrations out in the transaction that the database was opened with."""

from alembic import context

from gpt2lab.serving.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"], target_metadata=METADATA,
    transactional_ddl=False,  # there is a transaction
)  # fmt: skip
context.run_migrations()
