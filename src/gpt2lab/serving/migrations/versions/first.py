"""Keys, what they used and have reserved, the ledger, and the servers that write them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = branch_labels = depends_on = None


def upgrade() -> None:
    """Make the tables."""
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("limits", sa.JSON, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("expires", sa.Float),
        sa.Column("revoked", sa.Float),
    )
    op.create_table(
        "usage",
        sa.Column("key", sa.String(32), sa.ForeignKey("keys.id"), primary_key=True),
        sa.Column("period", sa.String(10), primary_key=True),
        sa.Column("tokens", number, nullable=False),
    )
    op.create_table(
        "reservations",
        sa.Column("request", sa.String(32), primary_key=True),
        sa.Column("key", sa.String(32), sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("server", sa.String(32), nullable=False, index=True),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("tokens", number, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "ledger",
        sa.Column("number", number, primary_key=True, autoincrement=True),
        sa.Column("key", sa.String(32), sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("request", sa.String(32), nullable=False, index=True),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("tokens", number, nullable=False),
        sa.Column("read", number, nullable=False),
        sa.Column("written", number, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_index("ledger_by_key", "ledger", ["key", "day"])
    op.create_table(
        "servers",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("seen", sa.Float, nullable=False),
    )
